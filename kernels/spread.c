/* Threads that wait for work: a while at full attention, since the next kernel comes soon, then
 * asleep. They are started when they are first needed; a forked process starts its own. */
#define _GNU_SOURCE
#include "spread.h"

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

/* PIECES for each thread: who comes late, or has to share its processor, finds less to do. */
enum { MOST = 64, PATIENCE = 20000, PIECES = 4 };

static struct {
    pthread_mutex_t taken; /* by the caller whose work is spread */
    pthread_mutex_t lock;  /* of `wake` */
    pthread_cond_t wake;
    int64_t helpers;       /* threads besides the caller's */
    long long begun[MOST]; /* the round that each of them began after */
    atomic_llong round;    /* a new number means new work */
    atomic_llong unfinished;
    atomic_llong next;     /* piece of work that nobody has begun */
    Work work;
    void *job;
    int64_t count, threads, pieces;
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

static void do_pieces(void)
{
    for (int64_t piece; (piece = atomic_fetch_add(&pool.next, 1)) < pool.pieces;)
        pool.work(pool.job, pool.count * piece / pool.pieces,
                  pool.count * (piece + 1) / pool.pieces);
}

static void *help(void *number)
{
    const int64_t self = (int64_t)(intptr_t)number;
    for (long long seen = pool.begun[self];;) {
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
        if (self < pool.threads)
            do_pieces();
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
        const int64_t number = pool.helpers + 1;
        pool.begun[number] = atomic_load(&pool.round);
        if (pthread_create(&thread, NULL, help, (void *)(intptr_t)number))
            return;
        pthread_detach(thread);
        pool.helpers = number;
    }
}

void spread(Work work, void *job, int64_t count, int64_t threads)
{
    if (threads <= 1 || count <= 1 || pthread_mutex_trylock(&pool.taken)) {
        work(job, 0, count);
        return;
    }
    start_helpers(threads - 1);
    pool.work = work;
    pool.job = job;
    pool.count = count;
    pool.threads = threads < pool.helpers + 1 ? threads : pool.helpers + 1;
    pool.pieces = count < PIECES * pool.threads ? count : PIECES * pool.threads;
    atomic_store(&pool.next, 0);
    atomic_store(&pool.unfinished, pool.helpers);
    pthread_mutex_lock(&pool.lock);
    atomic_fetch_add(&pool.round, 1);
    pthread_cond_broadcast(&pool.wake);
    pthread_mutex_unlock(&pool.lock);
    do_pieces();
    for (int64_t times = 0; atomic_load(&pool.unfinished) > 0; times++)
        pause_briefly(times);
    pthread_mutex_unlock(&pool.taken);
}

#else

void spread(Work work, void *job, int64_t count, int64_t threads)
{
    (void)threads;
    work(job, 0, count);
}

#endif
