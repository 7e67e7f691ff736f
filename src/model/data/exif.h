// The one EXIF field that changes how a picture is seen.
#pragma once

#include <string_view>

#include "fedumm/model/image.h"

namespace fedumm::model {

// The orientation, 1 to 8, in the TIFF structure of an EXIF block (what follows "Exif\0\0"). 1, the
// picture as it is stored, if the block is malformed or has none.
int ExifOrientation(std::string_view tiff);

// Turns and mirrors the picture as that orientation says.
Image ApplyOrientation(Image image, int orientation);

}  // namespace fedumm::model
