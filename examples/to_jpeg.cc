// Converts pictures to JPEG: each line of the standard input names a PNG or JPEG file to read and a
// file to write, with a tab between them. Pictures alone: links fedumm::data, without LibTorch.
//
//   printf 'in.png\tout.jpg\n' | example_to_jpeg [QUALITY]
#include <cstdlib>
#include <iostream>
#include <string>

#include "fedumm/model/image.h"

int main(int argc, char** argv) {
  using namespace fedumm::model;
  const int quality = argc > 1 ? std::atoi(argv[1]) : 90;
  std::string line;
  while (std::getline(std::cin, line)) {
    const size_t tab = line.find('\t');
    if (tab == std::string::npos) {
      std::cerr << "not two names with a tab between them: " << line << "\n";
      return 2;
    }
    const auto image = ReadImage(line.substr(0, tab));
    const absl::Status status =
        image.ok() ? WriteJpeg(line.substr(tab + 1), *image, quality) : image.status();
    if (!status.ok()) {
      std::cerr << status << "\n";
      return 1;
    }
  }
  return 0;
}
