/* Threads that wait for work: a while at full attention, since the next kernel comes soon, then
 * asleep. They are started when they are first needed; a forked process starts its own. */
#define _GNU_SOURCE
#include "spread.h"

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

enum { MOST = 64, PATIENCE = 20000 };

static struct {
    pthread_mutex_t taken; /* by the caller whose work is spread */
    pthread_mutex_t lock;  /* of `wake` */
    pthread_cond_t wake;
    int64_t helpers;       /* threads besides the caller's */
    long long begun[MOST]; /* the round that each of them began after */
    atomic_llong round;    /* a new number means new work */
    atomic_llong unfinished;
    Work work;
    void *job;
    int64_t count, parts;
} pool = {.taken = PTHREAD_MUTEX_INITIALIZER,
          .lock = PTHREAD_MUTEX_INITIALIZER,
          .wake = PTHREAD_COND_INITIALIZER};

static void pause_briefly(int64_t times)
{
    if (times % 64 == 63)
        sched_yield(); /* on a busy machine somebody else has the processor to finish with */
#if defined(__x86_64__) && defined(__GNUC__)
    else
        __builtin_ia32_pause();
#endif
}

static void do_part(int64_t part)
{
    const int64_t first = pool.count * part / pool.parts, last = pool.count * (part + 1) / pool.parts;
    if (first < last)
        pool.work(pool.job, first, last);
}

static void *help(void *number)
{
    const int64_t part = (int64_t)(intptr_t)number;
    for (long long seen = pool.begun[part];;) {
        for (int64_t times = 0; atomic_load(&pool.round) == seen; times++) {
            pause_briefly(times);
            if (times < PATIENCE)
                continue;
            pthread_mutex_lock(&pool.lock);
            while (atomic_load(&pool.round) == seen)
                pthread_cond_wait(&pool.wake, &pool.lock);
            pthread_mutex_unlock(&pool.lock);
        }
        seen++;
        if (part < pool.parts)
            do_part(part);
        atomic_fetch_sub(&pool.unfinished, 1);
    }
    return NULL;
}

static void forget_threads(void)
{
    const pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    const pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
    pool.taken = pool.lock = mutex;
    pool.wake = condition;
    pool.helpers = 0;
}

static void start_helpers(int64_t wanted)
{
    static int prepared;
    if (!prepared)
        prepared = pthread_atfork(NULL, NULL, forget_threads) == 0;
    while (prepared && pool.helpers < wanted && pool.helpers < MOST - 1) {
        pthread_t thread;
        const int64_t part = pool.helpers + 1;
        pool.begun[part] = atomic_load(&pool.round);
        if (pthread_create(&thread, NULL, help, (void *)(intptr_t)part))
            return;
        pthread_detach(thread);
        pool.helpers = part;
    }
}

void spread(Work work, void *job, int64_t count, int64_t parts)
{
    if (parts <= 1 || count <= 1 || pthread_mutex_trylock(&pool.taken)) {
        work(job, 0, count);
        return;
    }
    start_helpers(parts - 1);
    pool.work = work;
    pool.job = job;
    pool.count = count;
    pool.parts = parts < pool.helpers + 1 ? parts : pool.helpers + 1;
    atomic_store(&pool.unfinished, pool.helpers);
    pthread_mutex_lock(&pool.lock);
    atomic_fetch_add(&pool.round, 1);
    pthread_cond_broadcast(&pool.wake);
    pthread_mutex_unlock(&pool.lock);
    do_part(0);
    for (int64_t times = 0; atomic_load(&pool.unfinished) > 0; times++)
        pause_briefly(times);
    pthread_mutex_unlock(&pool.taken);
}

#else

void spread(Work work, void *job, int64_t count, int64_t parts)
{
    (void)parts;
    work(job, 0, count);
}

#endif
