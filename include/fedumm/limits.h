#pragma once

#include <cstdint>

namespace fedumm {

// What a peer may ask us to hold. Every parser of bytes from a socket or a file takes these; each
// limit is checked before anything is allocated for it. Plain data.
struct Limits {
  int64_t max_nodes = 200'000;  // keys that a server remembers
  // One object: a chunk of an array (5 MiB), or a whole record of another kind. The default is what
  // Protobuf and gRPC carry, 2 GiB, less what is around an object.
  int64_t max_object_bytes = (int64_t{2} << 30) - (int64_t{16} << 20);
  int64_t max_message_bytes = int64_t{8} << 30;  // all objects of one message together
  // What a message's arrays take beyond its objects, because they name a chunk more than once.
  int64_t max_repeated_bytes = int64_t{512} << 20;
  // One call of a peer, unless it is a node that was sent a message and now uploads an object.
  int64_t max_call_bytes = int64_t{24} << 20;
  // All objects that a SuperLink holds; beyond it uploads are asked to try again later.
  int64_t max_stored_bytes = int64_t{16} << 30;
  // Memory budget for replies with arrays that are uploaded at a time; other nodes wait. A larger
  // reply is uploaded alone. A larger budget is faster over slow lines.
  int64_t max_incoming_reply_bytes = int64_t{32} << 20;
  int64_t max_objects_per_message = 100'000;  // nodes of one object tree
  int64_t max_tree_depth = 6;  // Message, RecordDict, record, Array, chunk, and one to spare
  int64_t max_header_bytes = int64_t{8} << 20;  // text before an object's NUL
  int64_t max_record_items = 100'000;           // entries of one record
  int64_t max_list_values = 10'000'000;         // elements of one list value
  int64_t max_record_values = 10'000'000;       // entries and list elements of one record together
  int64_t max_key_bytes = 4096;                 // a record key or message type
  int64_t max_array_dims = 32;
  int64_t max_array_elements = int64_t{1} << 40;
  int64_t max_npy_header_bytes = 65'536;
};

}  // namespace fedumm
