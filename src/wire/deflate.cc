#include <algorithm>
#include <map>
#include <set>
#include <tuple>
#include <utility>

#include "base/sha256.h"
#include "record/npy.h"
#include "wire/body.h"
#include "wire/object.h"
#include "wire/proto.h"

namespace fedumm::wire {
namespace {

using flwr::proto::ObjectTree;

Object MakeObject(std::string_view type, const std::vector<std::string>& children,
                  std::string_view body) {
  std::string bytes = FormatObject(type, children, body);
  std::string id = Sha256Hex(bytes);
  return {std::move(id), std::make_shared<std::string>(std::move(bytes))};
}

struct DeflatedArray {
  Array array;  // keeps the buffer, whose address is the key of the memo
  ObjectTree tree;
  std::vector<Object> objects;
};

DeflatedArray DeflateArray(const Array& array) {
  DeflatedArray result;
  result.array = array;
  const std::string preamble = NpyPreamble(array);
  const std::string_view data = array.bytes();
  ArrayBody body{.format = FormatOf(array), .chunks = {}};
  std::vector<std::string> children;
  std::map<std::string, int64_t> places;
  const auto add_chunk = [&](std::string_view piece) {
    Object chunk = MakeObject("ArrayChunk", {}, piece);
    const auto [place, is_new] = places.emplace(chunk.id, static_cast<int64_t>(places.size()));
    body.chunks.push_back(place->second);
    if (!is_new) return;
    children.push_back(chunk.id);
    result.tree.add_children()->set_object_id(chunk.id);
    result.objects.push_back(std::move(chunk));
  };
  const size_t in_first = std::min(data.size(), kChunkBytes - preamble.size());
  add_chunk(preamble + std::string(data.substr(0, in_first)));
  for (size_t at = in_first; at < data.size(); at += kChunkBytes) {
    add_chunk(data.substr(at, kChunkBytes));
  }
  result.objects.push_back(MakeObject("Array", children, PrintArrayBody(body)));
  result.tree.set_object_id(result.objects.back().id);
  return result;
}

}  // namespace

class Deflater::Impl {
 public:
  DeflatedMessage Deflate(const Message& message) {
    Job job;
    flwr::proto::Message body;
    *body.mutable_metadata() = MetadataToProto(message.metadata);
    body.mutable_metadata()->clear_message_id();
    std::vector<ObjectTree> children;
    if (message.has_error()) {
      *body.mutable_error() = ErrorToProto(*message.error);
    } else {
      children.push_back(message.content.has_value() ? AddDict(*message.content, job)
                                                     : AddDict(RecordDict(), job));
    }
    job.result.tree = Add("Message", std::move(children), body.SerializeAsString(), job);
    job.result.message_id = job.result.tree.object_id();
    return std::move(job.result);
  }

 private:
  struct Job {
    DeflatedMessage result;
    std::set<std::string> seen;
  };
  // Collects the children of an object, each once.
  struct Children {
    IdMap ids;
    std::vector<ObjectTree> trees;
    std::set<std::string> seen;

    void Add(const std::string& name, ObjectTree tree) {
      ids.emplace_back(name, tree.object_id());
      if (seen.insert(tree.object_id()).second) trees.push_back(std::move(tree));
    }
  };

  static void AddObject(const Object& object, Job& job) {
    if (job.seen.insert(object.id).second) job.result.objects.push_back(object);
  }

  static ObjectTree Add(std::string_view type, std::vector<ObjectTree> children,
                        std::string_view body, Job& job) {
    std::vector<std::string> ids;
    for (const ObjectTree& child : children) ids.push_back(child.object_id());
    const Object object = MakeObject(type, ids, body);
    AddObject(object, job);
    ObjectTree tree;
    tree.set_object_id(object.id);
    for (ObjectTree& child : children) *tree.add_children() = std::move(child);
    return tree;
  }

  ObjectTree AddDict(const RecordDict& records, Job& job) {
    Children children;
    for (const auto& [name, record] : records) {
      children.Add(name,
                   std::visit([&](const auto& kind) { return AddRecord(kind, job); }, record));
    }
    return Add("RecordDict", std::move(children.trees), PrintIdMap(children.ids), job);
  }

  ObjectTree AddRecord(const ConfigRecord& record, Job& job) {
    return Add("ConfigRecord", {}, ConfigRecordToProto(record).SerializeAsString(), job);
  }

  ObjectTree AddRecord(const MetricRecord& record, Job& job) {
    return Add("MetricRecord", {}, MetricRecordToProto(record).SerializeAsString(), job);
  }

  ObjectTree AddRecord(const ArrayRecord& record, Job& job) {
    Children children;
    for (const auto& [name, array] : record) {
      const DeflatedArray& deflated = Remember(array);
      for (const Object& object : deflated.objects) AddObject(object, job);
      children.Add(name, deflated.tree);
    }
    return Add("ArrayRecord", std::move(children.trees), PrintIdMap(children.ids), job);
  }

  const DeflatedArray& Remember(const Array& array) {
    Key key(array.bytes().data(), array.dtype(), {array.shape().begin(), array.shape().end()});
    const auto found = memo_.find(key);
    if (found != memo_.end()) return found->second;
    return memo_.emplace(std::move(key), DeflateArray(array)).first->second;
  }

  using Key = std::tuple<const char*, DType, std::vector<int64_t>>;
  std::map<Key, DeflatedArray> memo_;
};

Deflater::Deflater() : impl_(std::make_unique<Impl>()) {}
Deflater::~Deflater() = default;

DeflatedMessage Deflater::Deflate(const Message& message) { return impl_->Deflate(message); }

}  // namespace fedumm::wire
