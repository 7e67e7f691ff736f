#include "base/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"

namespace fedumm {
namespace {

absl::Status FileError(const char* what, const std::string& path) {
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot ", what, " ", path));
}

}  // namespace

absl::StatusOr<std::string> ReadFile(const std::string& path, int64_t max_bytes) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return FileError("open", path);
  const absl::Cleanup close_fd = [fd] { close(fd); };
  struct stat info;
  if (fstat(fd, &info) != 0) return FileError("stat", path);
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat("not a regular file: ", path));
  }
  if (info.st_size > max_bytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat(path, " has ", info.st_size, " bytes, more than the limit of ", max_bytes));
  }
  std::string content(static_cast<size_t>(info.st_size), '\0');
  const absl::StatusOr<size_t> done = ReadUpTo(fd, content.data(), content.size(), path);
  if (!done.ok()) return done.status();
  content.resize(*done);
  return content;
}

absl::StatusOr<size_t> ReadUpTo(int fd, char* out, size_t num_bytes, const std::string& path) {
  size_t done = 0;
  while (done < num_bytes) {
    const ssize_t n = read(fd, out + done, num_bytes - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return FileError("read", path);
    if (n == 0) break;
    done += static_cast<size_t>(n);
  }
  return done;
}

absl::Status WriteAll(int fd, std::string_view content, const std::string& path) {
  size_t done = 0;
  while (done < content.size()) {
    const ssize_t n = write(fd, content.data() + done, content.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return FileError("write", path);
    done += static_cast<size_t>(n);
  }
  return absl::OkStatus();
}

absl::Status WriteFileAtomically(const std::string& path, std::string_view content) {
  return WriteFileAtomically(path, std::span(&content, 1));
}

absl::Status WriteFileAtomically(const std::string& path,
                                 std::span<const std::string_view> pieces) {
  const std::string temporary = absl::StrCat(path, ".tmp.", getpid());
  const int fd = open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return FileError("create", temporary);
  absl::Cleanup remove_temporary = [&] { unlink(temporary.c_str()); };
  for (const std::string_view piece : pieces) {
    if (absl::Status written = WriteAll(fd, piece, temporary); !written.ok()) {
      close(fd);
      return written;
    }
  }
  if (fsync(fd) != 0) {
    absl::Status error = FileError("sync", temporary);
    close(fd);
    return error;
  }
  if (close(fd) != 0) return FileError("close", temporary);
  if (rename(temporary.c_str(), path.c_str()) != 0) return FileError("rename to", path);
  std::move(remove_temporary).Cancel();
  const std::filesystem::path parent = std::filesystem::path(path).parent_path();
  const int dir = open(parent.empty() ? "." : parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (dir < 0) return FileError("open the folder of", path);
  const absl::Cleanup close_dir = [dir] { close(dir); };
  if (fsync(dir) != 0) return FileError("sync the folder of", path);
  return absl::OkStatus();
}

}  // namespace fedumm
