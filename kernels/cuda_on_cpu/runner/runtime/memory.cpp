// Atomic operations and asynchronous copies.

#include <algorithm>
#include <cstring>

#include "checker.h"
#include "shared_memory.h"
#include "thread.h"

namespace cuda_on_cpu {

void atomic_read(void *value, const void *address, size_t bytes)
{
    check_access(address, bytes, Access::Atomic, CUDA_ON_CPU_CALL_SITE);
    memcpy(value, address, bytes);
}

void atomic_write(void *address, const void *value, size_t bytes) { memcpy(address, value, bytes); }

void start_async_copy(void *destination, const void *source, size_t bytes, size_t source_bytes)
{
    const uint32_t site = CUDA_ON_CPU_CALL_SITE;
    const auto addresses =
        reinterpret_cast<uintptr_t>(destination) | reinterpret_cast<uintptr_t>(source);
    if (addresses % bytes != 0) {
        fail_at(site, 0, "{1}: misaligned asynchronous copy of %zu bytes by %s", bytes,
                describe(current->number).text);
    }
    if (!in_shared_memory(destination, bytes)) {
        fail_at(site, 0,
                "{1}: asynchronous copy of %zu bytes by %s to somewhere outside the shared memory",
                bytes, describe(current->number).text);
    }
    if (source_bytes > 0) {
        check_access(source, source_bytes, Access::Read, site);
    }
    check_access(destination, bytes, Access::AsyncWrite, site);
    current->copies.push_back({static_cast<char *>(destination), static_cast<const char *>(source),
                               bytes, source_bytes, current->copy_group, site});
}

void commit_async_copies() { current->copy_group++; }

void wait_for_async_copies(int groups_in_flight)
{
    const int arrived = current->copy_group - groups_in_flight;
    auto &copies = current->copies;
    for (const AsyncCopy &copy : copies) {
        if (copy.group < arrived) {
            memcpy(copy.destination, copy.source, copy.source_bytes);
            memset(copy.destination + copy.source_bytes, 0, copy.bytes - copy.source_bytes);
            check_async_arrival(copy.destination, copy.bytes, copy.site);
        }
    }
    copies.erase(std::remove_if(copies.begin(), copies.end(),
                                [arrived](const AsyncCopy &copy) { return copy.group < arrived; }),
                 copies.end());
}

} // namespace cuda_on_cpu
