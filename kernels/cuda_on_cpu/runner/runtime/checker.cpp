// Finds races by happened-before order, as FastTrack does (Flanagan and Freund 2009), with the two
// orders that CUDA has within a block: barriers of the block, and of a warp.

#ifdef CUDA_ON_CPU_CHECK

#include "checker.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <vector>

#include "image.h"
#include "shared_memory.h"
#include "stacks.h"

namespace cuda_on_cpu {
namespace {

// Who accessed a piece of memory, and when.
struct Stamp {
    uint32_t epoch; // between which two barriers of the launch; 0: no access
    uint32_t site;
    uint32_t thread : 10;
    uint32_t atomic : 1;
    uint32_t in_flight : 1;
    uint32_t clock : 20;
};

// The accesses to one piece of memory that are not ordered before a later one. Two of a kind are
// enough: if more are concurrent, whatever conflicts with a third conflicts with one of these, as
// they are kept from different warps where they can be. (Only __syncwarp with parts of a warp, on
// memory that three lanes have read, could hide the third.)
struct Cell {
    Stamp writes[2];
    Stamp reads[2];
};

// Memory that a kernel may access, with a cell for each 2^shift bytes of it.
struct Region {
    uint64_t begin, end;
    bool shared;
    const char *name;
    unsigned shift;
    std::vector<Cell> cells;

    size_t granule() const { return size_t(1) << shift; }
};

constexpr unsigned LARGEST_SHIFT = 2;

std::vector<Region> regions;
size_t last_region;

// An epoch ends at each barrier of a block, and with the block.
uint32_t epoch, first_epoch_of_block;

void add_region(const Array &array, bool shared)
{
    Region region{array.begin, array.begin + array.bytes, shared, array.name, LARGEST_SHIFT, {}};
    while (array.begin % region.granule() != 0) {
        region.shift--;
    }
    region.cells.resize((array.bytes + region.granule() - 1) >> region.shift);
    regions.push_back(std::move(region));
}

// Gives each half of a cell's bytes a cell as it was: narrower accesses begin here.
void refine(Region &region)
{
    std::vector<Cell> cells;
    cells.reserve(2 * region.cells.size());
    for (const Cell &cell : region.cells) {
        cells.insert(cells.end(), 2, cell);
    }
    region.cells = std::move(cells);
    region.shift--;
}

Region *find_region(uint64_t address)
{
    if (last_region < regions.size()) {
        Region &region = regions[last_region];
        if (address >= region.begin && address < region.end) {
            return &region;
        }
    }
    for (size_t i = 0; i < regions.size(); i++) {
        if (address >= regions[i].begin && address < regions[i].end) {
            last_region = i;
            return &regions[i];
        }
    }
    return nullptr;
}

const char *name_of(Access access)
{
    switch (access) {
        case Access::Read: return "read";
        case Access::Write: return "write";
        case Access::Atomic: return "atomic operation";
        default: return "asynchronous write";
    }
}

bool of_this_block(const Stamp &stamp) { return stamp.epoch >= first_epoch_of_block; }

bool same_warp(const Stamp &a, const Stamp &b)
{
    return of_this_block(a) == of_this_block(b) && a.thread / WARP_SIZE == b.thread / WARP_SIZE;
}

// Whether an access happened before whatever the running thread does now.
bool ordered(const Stamp &stamp, const Region &region)
{
    if (stamp.epoch != epoch) {
        // Another block's shared memory is another one.
        return stamp.epoch == 0 || region.shared || of_this_block(stamp);
    }
    if (stamp.thread == current->number) {
        return true;
    }
    return stamp.thread / WARP_SIZE == current->warp &&
           stamp.clock < current->clocks[stamp.thread % WARP_SIZE];
}

// Adds a stamp to those of concurrent accesses of its kind, in place of what it comes after.
void remember(Stamp (&stamps)[2], const Stamp &now, const Region &region)
{
    const bool first = ordered(stamps[0], region);
    const bool second = ordered(stamps[1], region);
    if (first) {
        stamps[0] = now;
        if (second) {
            stamps[1] = {};
        }
    } else if (second || (same_warp(stamps[0], stamps[1]) && !same_warp(stamps[0], now))) {
        stamps[1] = now;
    }
}

const Stamp *find_conflict(const Cell &cell, const Stamp &now, Access access, const Region &region)
{
    for (const Stamp &write : cell.writes) {
        if (!ordered(write, region) && !(now.atomic && write.atomic)) {
            return &write;
        }
    }
    if (access != Access::Read) {
        for (const Stamp &read : cell.reads) {
            if (!ordered(read, region)) {
                return &read;
            }
        }
    }
    return nullptr;
}

void report_race(const Stamp &other, const Cell &cell, Access access, uint32_t site,
                 const Region &region)
{
    const bool written = &other == &cell.writes[0] || &other == &cell.writes[1];
    const char *kind = other.atomic ? "atomic operation" : written ? "write" : "read";
    if (of_this_block(other)) {
        fail_at(site, other.site,
                "{1}: race: %s of %s by %s, with no barrier after the %s at {2} by %s",
                name_of(access), region.name, describe(current->number).text, kind,
                describe(other.thread).text);
    } else {
        fail_at(
            site, other.site,
            "{1}: race: %s of %s by %s, which is not ordered with the %s at {2} by another block",
            name_of(access), region.name, describe(current->number).text, kind);
    }
}

void check_cell(Cell &cell, const Stamp &now, Access access, const Region &region)
{
    Stamp &last_write = cell.writes[0];
    if (last_write.in_flight && of_this_block(last_write)) {
        fail_at(
            now.site, last_write.site,
            "{1}: missing wait: %s of %s by %s, which the asynchronous copy at {2} by %s may still "
            "be writing",
            name_of(access), region.name, describe(current->number).text,
            describe(last_write.thread).text);
    }
    if (access == Access::Read && region.shared && !of_this_block(last_write)) {
        fail_at(now.site, 0,
                "{1}: uninitialised read of %s by %s: nothing of this block has written there",
                region.name, describe(current->number).text);
    }
    if (const Stamp *other = find_conflict(cell, now, access, region)) {
        report_race(*other, cell, access, now.site, region);
    }
    switch (access) {
        case Access::Read: remember(cell.reads, now, region); break;
        case Access::Atomic: remember(cell.writes, now, region); break;
        default: cell = {{now, {}}, {}};
    }
}

[[gnu::cold]] void report_out_of_bounds(uint64_t address, size_t bytes, Access access,
                                        uint32_t site)
{
    char place[160] = "a null pointer";
    if (address >= 4096) {
        const Region *nearest = nullptr;
        uint64_t distance = ~uint64_t(0);
        for (const Region &region : regions) {
            const uint64_t gap =
                address < region.begin ? region.begin - address : address + bytes - region.end;
            if (gap < distance) {
                nearest = &region;
                distance = gap;
            }
        }
        if (nearest == nullptr) {
            snprintf(place, sizeof place, "the kernel has no arrays");
        } else if (address < nearest->begin) {
            snprintf(place, sizeof place, "%llu bytes before the start of %s",
                     static_cast<unsigned long long>(distance), nearest->name);
        } else {
            snprintf(place, sizeof place, "it ends %llu bytes past the end of %s",
                     static_cast<unsigned long long>(distance), nearest->name);
        }
    }
    fail_at(site, 0, "{1}: out of bounds: %s of %zu bytes by %s: %s", name_of(access), bytes,
            describe(current->number).text, place);
}

// Memory that is nobody else's: the thread's own variables, and the library's constants.
bool is_private(uint64_t address, size_t bytes)
{
    const auto stack = reinterpret_cast<uint64_t>(current->stack);
    if (address - stack < STACK_BYTES) {
        return true;
    }
    return address >= image().begin && address + bytes <= image().end;
}

Stamp stamp_of(uint32_t site, Access access)
{
    Stamp now{};
    now.epoch = epoch;
    now.site = site;
    now.thread = current->number;
    now.atomic = access == Access::Atomic;
    now.in_flight = access == Access::AsyncWrite;
    now.clock = current->clocks[current->lane];
    return now;
}

} // namespace

void check_new_launch(const Launch &launch)
{
    regions.clear();
    last_region = 0;
    epoch = 0;
    for (const Array &array : shared_arrays()) {
        add_region(array, true);
    }
    for (uint32_t i = 0; i < launch.array_count; i++) {
        add_region(launch.arrays[i], false);
    }
}

void check_new_block() { first_epoch_of_block = epoch + 1; }

void check_end() { regions.clear(); }

void check_barrier(Thread *threads, size_t count)
{
    epoch++;
    for (size_t i = 0; i < count; i++) {
        memset(threads[i].clocks, 0, sizeof threads[i].clocks);
    }
}

void check_warp_barrier(Thread *lanes, unsigned count, unsigned mask)
{
    uint32_t joined[WARP_SIZE] = {};
    for (unsigned lane = 0; lane < count; lane++) {
        if (mask >> lane & 1) {
            lanes[lane].clocks[lane]++;
            for (unsigned i = 0; i < WARP_SIZE; i++) {
                joined[i] = std::max(joined[i], lanes[lane].clocks[i]);
            }
        }
    }
    for (unsigned lane = 0; lane < count; lane++) {
        if (mask >> lane & 1) {
            memcpy(lanes[lane].clocks, joined, sizeof joined);
        }
    }
}

void check_access(const void *address, size_t bytes, Access access, uint32_t site)
{
    const auto begin = reinterpret_cast<uint64_t>(address);
    Region *region = find_region(begin);
    if (region == nullptr || begin + bytes > region->end) {
        if (region != nullptr || !is_private(begin, bytes)) {
            report_out_of_bounds(begin, bytes, access, site);
        }
        return;
    }
    const uint64_t offset = begin - region->begin;
    while (((offset | bytes) & (region->granule() - 1)) != 0) {
        refine(*region);
    }
    const Stamp now = stamp_of(site, access);
    for (size_t i = offset >> region->shift; i < (offset + bytes) >> region->shift; i++) {
        check_cell(region->cells[i], now, access, *region);
    }
}

void check_aligned_access(const void *address, size_t bytes, Access access, uint32_t site)
{
    // The compiler may put a thread's own variables anywhere.
    const auto begin = reinterpret_cast<uint64_t>(address);
    if ((begin & (bytes - 1)) != 0 && find_region(begin) != nullptr) {
        fail_at(site, 0, "{1}: misaligned %s of %zu bytes by %s: the address is no multiple of %zu",
                name_of(access), bytes, describe(current->number).text, bytes);
    }
    check_access(address, bytes, access, site);
}

void check_async_arrival(const void *address, size_t bytes, uint32_t site)
{
    Region *region = find_region(reinterpret_cast<uint64_t>(address));
    const uint64_t offset = reinterpret_cast<uint64_t>(address) - region->begin;
    const Stamp now = stamp_of(site, Access::Write);
    for (size_t i = offset >> region->shift; i < (offset + bytes) >> region->shift; i++) {
        region->cells[i].writes[0] = now;
    }
}

} // namespace cuda_on_cpu

#endif
