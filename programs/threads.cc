#include "programs/threads.h"

#include <ATen/Parallel.h>

namespace fedumm::programs {

void UseOneThread() {
  at::set_num_threads(1);
  at::set_num_interop_threads(1);
}

}  // namespace fedumm::programs
