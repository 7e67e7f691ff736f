#include "tests/transport/fake_proxy.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/host_port.h"

namespace fedumm::testing {
namespace {

bool SendAll(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) return false;
    bytes.remove_prefix(sent);
  }
  return true;
}

// Moves what one read gives. False at the end.
bool Move(int from, int to) {
  std::array<char, 16 << 10> part;
  const ssize_t got = recv(from, part.data(), part.size(), 0);
  return got > 0 && SendAll(to, {part.data(), static_cast<size_t>(got)});
}

// Both ways, until one side ends or the server is stopped.
void Relay(RawPeer& peer, int target) {
  constexpr int kTickMs = 20;
  std::array<pollfd, 2> watched = {{{peer.fd(), POLLIN, 0}, {target, POLLIN, 0}}};
  while (!peer.is_stopped()) {
    if (poll(watched.data(), watched.size(), kTickMs) <= 0) continue;
    if (watched[0].revents != 0 && !Move(peer.fd(), target)) return;
    if (watched[1].revents != 0 && !Move(target, peer.fd())) return;
  }
}

}  // namespace

FakeProxy::FakeProxy(Options options)
    : options_(std::move(options)),
      server_({.tls = std::nullopt, .alpn = "", .parallel = true},
              [this](RawPeer& peer, int) { Serve(peer); }) {}

std::vector<std::string> FakeProxy::requests() const {
  const MutexLock lock(mutex_);
  return requests_;
}

void FakeProxy::Serve(RawPeer& peer) {
  const std::string request = peer.ReceiveRequest();
  if (request.empty()) return;
  {
    const MutexLock lock(mutex_);
    requests_.push_back(request.substr(0, request.find("\r\n\r\n")));
  }
  if (!options_.authorization.empty() &&
      !absl::StrContains(
          request, absl::StrCat("\r\nProxy-Authorization: ", options_.authorization, "\r\n")) &&
      !absl::StrContains(
          request, absl::StrCat("\r\nProxy-Authorization:", options_.authorization, "\r\n"))) {
    return peer.Answer(407, "");
  }
  const std::vector<std::string> line = absl::StrSplit(request.substr(0, request.find('\r')), ' ');
  const bool connects = line[0] == "CONNECT";
  const int refusal = connects ? options_.connect_refusal : options_.forward_refusal;
  if (refusal != 0) return peer.Answer(refusal, "");
  if (connects) {
    Tunnel(peer, line[1]);
  } else {
    Forward(peer, request);
  }
}

void FakeProxy::Tunnel(RawPeer& peer, const std::string& target) const {
  const int fd = Dial(target);
  if (fd < 0) return peer.Answer(502, "");
  const absl::Cleanup close_fd = [fd] { close(fd); };
  peer.Send("HTTP/1.1 200 Connection established\r\n\r\n");
  Relay(peer, fd);
}

void FakeProxy::Forward(RawPeer& peer, const std::string& request) const {
  constexpr std::string_view kScheme = "http://";
  const size_t url = request.find(' ') + 1;
  const size_t path = request.find('/', url + kScheme.size());
  if (request.compare(url, kScheme.size(), kScheme) != 0) return peer.Answer(400, "");
  const size_t host = url + kScheme.size();
  const int fd = Dial(request.substr(host, path - host));
  if (fd < 0) return peer.Answer(502, "");
  const absl::Cleanup close_fd = [fd] { close(fd); };
  // One request a connection.
  const size_t headers = request.find("\r\n") + 2;
  SendAll(fd, absl::StrCat(request.substr(0, url), request.substr(path, headers - path),
                           "Connection: close\r\n", request.substr(headers)));
  Relay(peer, fd);
}

int FakeProxy::Dial(const std::string& target) const {
  const auto known = options_.hosts.find(target);
  const auto parsed = HostPort::Parse(known == options_.hosts.end() ? target : known->second);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  if (!parsed.ok() || inet_pton(AF_INET, parsed->host.c_str(), &address.sin_addr) != 1) return -1;
  address.sin_port = htons(parsed->port);
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0) return fd;
  close(fd);
  return -1;
}

}  // namespace fedumm::testing
