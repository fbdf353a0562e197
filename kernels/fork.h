#ifndef TINYGRAD_CHAR_FORK_H
#define TINYGRAD_CHAR_FORK_H

/* Has every later fork of this process wait, for a moment, until no other thread computes. */
void prepare_for_forks(void);

#endif
