#include <algorithm>
#include <deque>
#include <map>
#include <set>
#include <tuple>
#include <utility>

#include "absl/container/flat_hash_set.h"
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
  SharedMessage Deflate(const Message& message) {
    SharedMessage result;
    flwr::proto::Message body;
    *body.mutable_metadata() = MetadataToProto(message.metadata);
    body.mutable_metadata()->clear_message_id();
    std::vector<std::string> children;
    if (message.has_error()) {
      *body.mutable_error() = ErrorToProto(*message.error);
    } else {
      result.content = ContentOf(message.content.value_or(RecordDict()));
      children.push_back(result.content->root.id);
    }
    result.root = MakeObject("Message", children, body.SerializeAsString());
    return result;
  }

 private:
  struct SeenRecord {
    ArrayRecord record;  // keeps the storage, whose address is the key of the memo
    std::shared_ptr<const DeflatedRecord> deflated;
  };
  struct SeenContent {
    RecordDict records;  // keeps the storage
    std::shared_ptr<const DeflatedContent> content;
  };
  // Collects objects, each once.
  struct Objects {
    std::vector<Object> list;
    absl::flat_hash_set<std::string> seen;

    void Add(const Object& object) {
      if (seen.insert(object.id).second) list.push_back(object);
    }
  };
  // Collects the children of an object, each once.
  struct Children {
    IdMap ids;
    std::vector<const ObjectTree*> trees;
    std::set<std::string> seen;

    void Add(const std::string& name, const ObjectTree& tree) {
      ids.emplace_back(name, tree.object_id());
      if (seen.insert(tree.object_id()).second) trees.push_back(&tree);
    }
    Object MakeParent(std::string_view type) const {
      std::vector<std::string> child_ids;
      for (const ObjectTree* child : trees) child_ids.push_back(child->object_id());
      return MakeObject(type, child_ids, PrintIdMap(ids));
    }
    ObjectTree TreeOf(const Object& parent) const {
      ObjectTree tree;
      tree.set_object_id(parent.id);
      for (const ObjectTree* child : trees) *tree.add_children() = *child;
      return tree;
    }
  };

  std::shared_ptr<const DeflatedContent> ContentOf(const RecordDict& records) {
    for (const SeenContent& seen : contents_) {
      if (records.storage_id() != nullptr && records.SharesStorage(seen.records)) {
        return seen.content;
      }
    }
    auto content = std::make_shared<DeflatedContent>();
    IdMap ids;
    std::vector<std::string> child_ids;
    std::set<std::string> seen_ids;
    for (const auto& [name, record] : records) {
      std::shared_ptr<const DeflatedRecord> part =
          std::visit([this](const auto& kind) { return this->RecordOf(kind); }, record);
      const std::string& id = part->tree.object_id();
      ids.emplace_back(name, id);
      if (!seen_ids.insert(id).second) continue;
      child_ids.push_back(id);
      content->num_bytes += part->num_bytes;
      content->records.push_back(std::move(part));
    }
    content->root = MakeObject("RecordDict", child_ids, PrintIdMap(ids));
    content->num_bytes += static_cast<int64_t>(content->root.bytes->size());
    // Equal content of another storage: its id says so.
    for (const SeenContent& seen : contents_) {
      if (seen.content->root.id == content->root.id) return seen.content;
    }
    if (contents_.size() >= kMostContents) contents_.pop_front();
    contents_.push_back({records, content});
    return content;
  }

  static std::shared_ptr<const DeflatedRecord> Leaf(std::string_view type, std::string_view body) {
    auto leaf = std::make_shared<DeflatedRecord>();
    leaf->objects.push_back(MakeObject(type, {}, body));
    leaf->tree.set_object_id(leaf->objects.back().id);
    leaf->num_bytes = static_cast<int64_t>(leaf->objects.back().bytes->size());
    return leaf;
  }
  static std::shared_ptr<const DeflatedRecord> RecordOf(const ConfigRecord& record) {
    return Leaf("ConfigRecord", ConfigRecordToProto(record).SerializeAsString());
  }
  static std::shared_ptr<const DeflatedRecord> RecordOf(const MetricRecord& record) {
    return Leaf("MetricRecord", MetricRecordToProto(record).SerializeAsString());
  }
  std::shared_ptr<const DeflatedRecord> RecordOf(const ArrayRecord& record) {
    const auto found = records_.find(record.storage_id());
    if (found != records_.end()) return found->second.deflated;
    auto deflated = std::make_shared<DeflatedRecord>();
    Objects objects;
    Children children;
    for (const auto& [name, array] : record) {
      const DeflatedArray& part = Remember(array);
      for (const Object& object : part.objects) objects.Add(object);
      children.Add(name, part.tree);
    }
    const Object parent = children.MakeParent("ArrayRecord");
    objects.Add(parent);
    deflated->tree = children.TreeOf(parent);
    deflated->objects = std::move(objects.list);
    for (const Object& object : deflated->objects) {
      deflated->num_bytes += static_cast<int64_t>(object.bytes->size());
    }
    if (record.storage_id() != nullptr) {
      records_.emplace(record.storage_id(), SeenRecord{record, deflated});
    }
    return deflated;
  }

  const DeflatedArray& Remember(const Array& array) {
    Key key(array.bytes().data(), array.dtype(), {array.shape().begin(), array.shape().end()});
    const auto found = arrays_.find(key);
    if (found != arrays_.end()) return found->second;
    return arrays_.emplace(std::move(key), DeflateArray(array)).first->second;
  }

  // Contents that messages may take turns with.
  static constexpr size_t kMostContents = 8;

  using Key = std::tuple<const char*, DType, std::vector<int64_t>>;
  std::map<Key, DeflatedArray> arrays_;
  std::map<const void*, SeenRecord> records_;  // by storage
  std::deque<SeenContent> contents_;           // oldest first
};

Deflater::Deflater() : impl_(std::make_unique<Impl>()) {}
Deflater::~Deflater() = default;

DeflatedMessage Deflater::Deflate(const Message& message) {
  const SharedMessage shared = impl_->Deflate(message);
  DeflatedMessage result;
  result.message_id = shared.root.id;
  result.tree.set_object_id(shared.root.id);
  if (shared.content != nullptr) {
    ObjectTree& content = *result.tree.add_children();
    content.set_object_id(shared.content->root.id);
    absl::flat_hash_set<std::string> seen;
    for (const auto& record : shared.content->records) {
      *content.add_children() = record->tree;
      for (const Object& object : record->objects) {
        if (seen.insert(object.id).second) result.objects.push_back(object);
      }
    }
    result.objects.push_back(shared.content->root);
  }
  result.objects.push_back(shared.root);
  return result;
}

SharedMessage Deflater::DeflateShared(const Message& message) { return impl_->Deflate(message); }

}  // namespace fedumm::wire
