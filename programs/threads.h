#pragma once

namespace fedumm::programs {

// LibTorch with one thread: equal inputs then give equal bits however many cores there are, and
// processes side by side do not fight for them.
void UseOneThread();

}  // namespace fedumm::programs
