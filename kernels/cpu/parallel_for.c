/* Threads that wait for work: a while at full attention, since the next kernel comes soon, then
 * asleep. They are started when they are first needed; a forked process starts its own. */
#define _GNU_SOURCE
#include "parallel_for.h"

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

/* PIECES for each thread: who comes late, or has to share its processor, finds less to do. */
enum { MOST = 64, PATIENCE = 20000, PIECES = 4 };

/* What there is to do is one number, so that a piece can be claimed in one step: how many pieces
 * nobody has begun, how many threads may begin one, and the round, which makes it a new number. A
 * round's other facts hold until all of its pieces are done. Who is late to the last piece finds
 * none, and nobody has waited for it. */
enum { PIECE_BITS = 32, THREAD_BITS = 8 };

static struct {
    pthread_mutex_t taken; /* by the caller whose work is shared */
    pthread_mutex_t lock;  /* of `wake` */
    pthread_cond_t wake;
    int64_t helpers; /* threads besides the caller's */
    uint64_t round;
    uint64_t begun[MOST]; /* what there was to do when each of them began */
    atomic_ullong to_do;
    atomic_llong done;
    Work work;
    void *job;
    int64_t count, pieces;
} pool = {.taken = PTHREAD_MUTEX_INITIALIZER,
          .lock = PTHREAD_MUTEX_INITIALIZER,
          .wake = PTHREAD_COND_INITIALIZER};

static int64_t unbegun(uint64_t to_do) { return (int64_t)(to_do & ((1ull << PIECE_BITS) - 1)); }

static int64_t threads_of(uint64_t to_do)
{
    return (int64_t)(to_do >> PIECE_BITS & ((1u << THREAD_BITS) - 1));
}

static void pause_briefly(int64_t times)
{
    if (times % 64 == 63)
        sched_yield(); /* on a busy machine somebody else has the processor to finish with */
#if defined(__x86_64__) && defined(__GNUC__)
    else
        __builtin_ia32_pause();
#endif
}

/* Does pieces until none is left that nobody has begun; `self` is 0 for the caller. */
static void do_pieces(int64_t self)
{
    unsigned long long seen = atomic_load(&pool.to_do);
    while (unbegun(seen) > 0 && self < threads_of(seen)) {
        if (!atomic_compare_exchange_weak(&pool.to_do, &seen, seen - 1))
            continue;
        const int64_t piece = pool.pieces - unbegun(seen);
        pool.work(pool.job, pool.count * piece / pool.pieces,
                  pool.count * (piece + 1) / pool.pieces);
        atomic_fetch_add(&pool.done, 1);
        seen = atomic_load(&pool.to_do);
    }
}

static uint64_t round_of(uint64_t to_do) { return to_do >> (PIECE_BITS + THREAD_BITS); }

static void *help(void *number)
{
    const int64_t self = (int64_t)(intptr_t)number;
    for (uint64_t seen = round_of(pool.begun[self]);;) {
        for (int64_t times = 0; round_of(atomic_load(&pool.to_do)) == seen; times++) {
            pause_briefly(times);
            if (times < PATIENCE)
                continue;
            pthread_mutex_lock(&pool.lock);
            while (round_of(atomic_load(&pool.to_do)) == seen)
                pthread_cond_wait(&pool.wake, &pool.lock);
            pthread_mutex_unlock(&pool.lock);
        }
        seen = round_of(atomic_load(&pool.to_do));
        do_pieces(self);
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
        pool.begun[number] = atomic_load(&pool.to_do);
        if (pthread_create(&thread, NULL, help, (void *)(intptr_t)number))
            return;
        pthread_detach(thread);
        pool.helpers = number;
    }
}

void parallel_for(Work work, void *job, int64_t count, int64_t threads)
{
    if (threads <= 1 || count <= 1 || pthread_mutex_trylock(&pool.taken)) {
        work(job, 0, count);
        return;
    }
    start_helpers(threads - 1);
    threads = threads < pool.helpers + 1 ? threads : pool.helpers + 1;
    pool.work = work;
    pool.job = job;
    pool.count = count;
    pool.pieces = count < PIECES * threads ? count : PIECES * threads;
    pool.round++;
    atomic_store(&pool.done, 0);
    pthread_mutex_lock(&pool.lock);
    atomic_store(&pool.to_do, (pool.round << THREAD_BITS | (uint64_t)threads) << PIECE_BITS |
                                  (uint64_t)pool.pieces);
    pthread_cond_broadcast(&pool.wake);
    pthread_mutex_unlock(&pool.lock);
    do_pieces(0);
    for (int64_t times = 0; atomic_load(&pool.done) < pool.pieces; times++)
        pause_briefly(times);
    pthread_mutex_unlock(&pool.taken);
}

#else

void parallel_for(Work work, void *job, int64_t count, int64_t threads)
{
    (void)threads;
    work(job, 0, count);
}

#endif
