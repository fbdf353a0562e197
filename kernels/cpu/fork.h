#ifndef TINYGRAD_CHAR_FORK_H
#define TINYGRAD_CHAR_FORK_H

/* Says whether Python, which is about to fork, has other threads that may compute; 0 once it has
 * forked. Threads of a library alone, which may look busy while they wait, compute for nobody. */
void expect_fork(int with_others);
/* Has every later fork of this process wait, for a moment, until no other thread computes. */
void prepare_for_forks(void);

#endif
