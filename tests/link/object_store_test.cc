#include "store/object_store.h"

#include <gmock/gmock.h>

#include "base/sha256.h"
#include "tests/testing/status_matchers.h"

namespace fedumm::store {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using testing::IsOk;
using testing::StatusIs;

const std::string kBytes = wire::FormatObject("ArrayChunk", {}, "abc");
const std::string kId = Sha256Hex(kBytes);
const Limits kLimits;

TEST(ObjectStoreTest, AnnouncedObjectIsMissingUntilItsBytesCome) {
  ObjectStore store;
  EXPECT_THAT(store.Announce({kId}), ElementsAre(kId));
  EXPECT_EQ(store.Find(kId), nullptr);
  EXPECT_THAT(store.PutChecked(kId, kBytes, kLimits), IsOk());
  ASSERT_NE(store.Find(kId), nullptr);
  EXPECT_EQ(*store.Find(kId), kBytes);
  EXPECT_THAT(store.Announce({kId}), IsEmpty());
}

TEST(ObjectStoreTest, ObjectGoesWithItsLastReference) {
  ObjectStore store;
  store.Add({kId, std::make_shared<const std::string>(kBytes)});
  store.Announce({kId});
  store.Release({kId});
  EXPECT_EQ(store.num_bytes(), static_cast<int64_t>(kBytes.size()));
  store.Release({kId});
  EXPECT_EQ(store.num_objects(), 0);
  EXPECT_EQ(store.num_bytes(), 0);
}

TEST(ObjectStoreTest, BytesThatDoNotHashToTheIdAreRefused) {
  ObjectStore store;
  store.Announce({kId});
  EXPECT_THAT(store.PutChecked(kId, wire::FormatObject("ArrayChunk", {}, "abd"), kLimits),
              StatusIs(absl::StatusCode::kDataLoss));
  EXPECT_THAT(store.PutChecked(kId, "no object", kLimits),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_EQ(store.Find(kId), nullptr);
}

TEST(ObjectStoreTest, UnannouncedObjectIsRefused) {
  ObjectStore store;
  EXPECT_THAT(store.PutChecked(kId, kBytes, kLimits), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_EQ(store.num_objects(), 0);
}

TEST(ObjectStoreTest, ObjectBeyondTheLimitIsRefused) {
  ObjectStore store;
  store.Announce({kId});
  Limits limits;
  limits.max_object_bytes = static_cast<int64_t>(kBytes.size()) - 1;
  EXPECT_THAT(store.PutChecked(kId, kBytes, limits), StatusIs(absl::StatusCode::kInvalidArgument));
  limits.max_object_bytes = static_cast<int64_t>(kBytes.size());
  EXPECT_THAT(store.PutChecked(kId, kBytes, limits), IsOk());
}

}  // namespace
}  // namespace fedumm::store
