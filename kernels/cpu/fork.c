/* A fork waits, for a moment, until no other thread computes.
 *
 * Of a library that is in the middle of something in another thread, a child has the middle and not
 * the end: locks that nobody will release. OpenBLAS, which ends its threads before a fork, may even
 * wait for them for ever when it is at work. The interpreter's lock is held at a fork, so that no
 * thread begins anything new, and those that compute without it are soon done. */
#define _GNU_SOURCE
#include "fork.h"

#if defined(__linux__)
#include <dirent.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Nobody has computed when that was seen so many times; a thread that always does is no reason to
 * wait longer than LONGEST. */
enum { LOOKS = 3, NANOSECONDS_BETWEEN = 200 * 1000, LONGEST = 5000 };

/* Whether a thread runs, or would if it had a processor, by the state that follows its name. */
static int runs(const char *thread)
{
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/self/task/%.20s/stat", thread);
    FILE *const file = fopen(path, "r");
    if (!file)
        return 0; /* it has ended */
    text[fread(text, 1, sizeof text - 1, file)] = 0;
    fclose(file);
    const char *const name_end = strrchr(text, ')');
    return name_end && (name_end[1] == ' ') && (name_end[2] == 'R' || name_end[2] == 'D');
}

static int others_compute(void)
{
    DIR *const threads = opendir("/proc/self/task");
    if (!threads)
        return 0;
    const long self = syscall(SYS_gettid);
    int found = 0;
    for (struct dirent *each; !found && (each = readdir(threads));)
        found = each->d_name[0] != '.' && atol(each->d_name) != self && runs(each->d_name);
    closedir(threads);
    return found;
}

static int others; /* whether Python has other threads, at a fork of its own */

void expect_fork(int with_others) { others = with_others; }

static void wait_for_others(void)
{
    if (!others)
        return;
    const struct timespec a_moment = {0, NANOSECONDS_BETWEEN};
    for (int looks = 0, quiet = 0; looks < LONGEST && quiet < LOOKS; looks++) {
        if (looks)
            nanosleep(&a_moment, NULL);
        quiet = others_compute() ? 0 : quiet + 1;
    }
}

void prepare_for_forks(void)
{
    static int prepared;
    if (!prepared)
        prepared = pthread_atfork(wait_for_others, NULL, NULL) == 0;
}

#else

void expect_fork(int with_others) { (void)with_others; }
void prepare_for_forks(void) {}

#endif
