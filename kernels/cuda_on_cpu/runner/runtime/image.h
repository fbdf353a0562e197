// Where the loader has put this library.
#pragma once

#include <cstdint>

namespace cuda_on_cpu {

// The library's code and data.
struct Image {
    uint64_t begin, end;
};
const Image &image();

// The calling system thread's copy of the library's thread-local memory: the static shared arrays.
char *thread_local_segment();

} // namespace cuda_on_cpu
