#pragma once

#include <cstdlib>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace fedumm {

// Gives freed memory back to the system. Allocators keep it for the threads that first asked for
// it; where one thread receives what another frees, that adds up. Takes milliseconds: for large
// things only.
inline void ReturnFreeMemory() {
#if defined(__GLIBC__)
  malloc_trim(0);
#endif
}

}  // namespace fedumm
