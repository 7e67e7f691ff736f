#pragma once

#include <cstdlib>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace fedumm {

// Returns freed memory to the system. The allocator keeps it in the arena of the thread that
// allocated it, which adds up when one thread allocates and another frees. Takes milliseconds: call
// it after large objects only.
inline void ReturnFreeMemory() {
#if defined(__GLIBC__)
  malloc_trim(0);
#endif
}

}  // namespace fedumm
