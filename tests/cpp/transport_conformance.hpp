// The contract page cpp/include/rdmaorder/transport/transport.hpp as a test suite.
//
// A new transport joins with a factory and one line in its own test program:
//
//   struct Mine {
//     // May keep what both ends need; outlives the endpoint.
//     TransportEndpoint make(std::uint64_t window_bytes);
//     // Why it cannot run here, empty when it can (a device that is not there).
//     std::string absent() const;
//   };
//   INSTANTIATE_TYPED_TEST_SUITE_P(Mine, TransportConformance, Mine);
//
// Arrival is waited for: nothing here assumes that put() returns after the bytes are visible.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "rdmaorder/transport/transport.hpp"
#include "ring_support.hpp"

namespace rdmaorder::transport {

struct TransportEndpoint {
  std::unique_ptr<Transport> transport;
  std::uint64_t* peer_words = nullptr;  ///< the window as the peer's CPU sees it
  std::uint64_t window_bytes = 0;
};

template <class Factory>
class TransportConformance : public ::testing::Test {
 protected:
  static constexpr std::uint64_t kAsked = 8192;
  static constexpr int kMostPuts = 2'000'000;    ///< of a race between put and reader
  static constexpr std::uint64_t kLooks = 5000;  ///< of the reader, which end the race
  static constexpr std::uint64_t kUntouched = 0x5AA5F00FC33C0FF0;

  void SetUp() override {
    if (const std::string why = factory_.absent(); !why.empty()) GTEST_SKIP() << why;
    end_ = factory_.make(kAsked);
    ASSERT_NE(end_.transport, nullptr);
    ASSERT_GE(end_.window_bytes, kAsked);
    word_count_ = end_.window_bytes / 8;
    for (std::uint64_t i = 0; i < word_count_; ++i) store_relaxed(end_.peer_words + i, kUntouched);
  }

  /// Puts, making room as the contract says when there is none.
  Status put(std::uint64_t offset_bytes, const void* source, std::uint64_t bytes) {
    Status status = Status::kFull;
    EXPECT_TRUE(ring_support::eventually([&] {
      status = end_.transport->put(offset_bytes, source, static_cast<std::uint32_t>(bytes));
      if (status == Status::kFull) (void)end_.transport->progress();
      return status != Status::kFull;
    }));
    return status;
  }
  [[nodiscard]] bool arrives(std::uint64_t word_index, std::uint64_t value) {
    return ring_support::eventually(
        [&] { return load_acquire(end_.peer_words + word_index) == value; });
  }
  [[nodiscard]] bool arrives(std::uint64_t word_index, const std::vector<std::uint64_t>& words) {
    for (std::size_t i = 0; i < words.size(); ++i) {
      if (!arrives(word_index + i, words[i])) return false;
    }
    return true;
  }
  /// How many words outside [first, first + count) are not what they were.
  [[nodiscard]] std::uint64_t touched_outside(std::uint64_t first, std::uint64_t count) const {
    std::uint64_t touched = 0;
    for (std::uint64_t i = 0; i < word_count_; ++i) {
      const bool inside = i >= first && i < first + count;
      if (!inside && load_acquire(end_.peer_words + i) != kUntouched) ++touched;
    }
    return touched;
  }
  static std::vector<std::uint64_t> pattern(std::size_t word_count, std::uint64_t seed) {
    std::vector<std::uint64_t> words(word_count);
    for (std::size_t i = 0; i < word_count; ++i) words[i] = ring_support::word_of(seed, i);
    return words;
  }

  Factory factory_;
  TransportEndpoint end_;
  std::uint64_t word_count_ = 0;
};

TYPED_TEST_SUITE_P(TransportConformance);

TYPED_TEST_P(TransportConformance, WritesEveryWordAndNothingBesideIt) {
  std::mt19937 random(1);
  for (int round = 0; round < 50; ++round) {
    const std::uint64_t count = random() % 512 + 1;
    const std::uint64_t first = random() % (this->word_count_ - count + 1);
    const auto words = this->pattern(count, static_cast<std::uint64_t>(round) + 1);
    ASSERT_EQ(this->put(first * 8, words.data(), count * 8), Status::kOk);
    ASSERT_TRUE(this->arrives(first, words)) << count << " words at " << first;
    ASSERT_EQ(this->touched_outside(first, count), 0U) << count << " words at " << first;
    for (std::uint64_t i = 0; i < count; ++i) {
      store_relaxed(this->end_.peer_words + first + i, this->kUntouched);
    }
  }
}

TYPED_TEST_P(TransportConformance, ReachesTheFirstAndTheLastWordOfTheWindow) {
  const auto words = this->pattern(8, 3);
  ASSERT_EQ(this->put(0, words.data(), 64), Status::kOk);
  ASSERT_EQ(this->put(this->end_.window_bytes - 64, words.data(), 64), Status::kOk);
  EXPECT_TRUE(this->arrives(0, words));
  EXPECT_TRUE(this->arrives(this->word_count_ - 8, words));
}

TYPED_TEST_P(TransportConformance, IsDoneWithTheSourceWhenPutReturns) {
  for (const std::size_t word_count : {std::size_t{8}, std::size_t{512}}) {
    auto words = this->pattern(word_count, 7);
    const auto kept = words;
    ASSERT_EQ(this->put(0, words.data(), word_count * 8), Status::kOk);
    std::fill(words.begin(), words.end(), 0);
    EXPECT_TRUE(this->arrives(0, kept)) << word_count << " words";
  }
}

TYPED_TEST_P(TransportConformance, LandsTwoPutsToTheSameWordInOrder) {
  for (std::uint64_t value = 1; value <= 2000; ++value) {
    ASSERT_EQ(this->put(64, &value, 8), Status::kOk);
    if (value % 100 == 0) {
      ASSERT_TRUE(this->arrives(8, value));
    }
  }
  std::uint64_t before = 0;
  for (int look = 0; look < 100; ++look) {
    const std::uint64_t seen = load_acquire(this->end_.peer_words + 8);
    ASSERT_GE(seen, before);
    before = seen;
  }
  EXPECT_EQ(before, 2000U);
}

TYPED_TEST_P(TransportConformance, LetsEveryWordArriveWhole) {
  // Writer and reader race; each word is all ones or all zeros in every byte, never a mixture.
  std::atomic<bool> done{false};
  std::atomic<std::uint64_t> looks{0};
  std::atomic<std::uint64_t> mixed{0};
  for (std::uint64_t i = 0; i < 8; ++i) store_relaxed(this->end_.peer_words + i, 0);
  std::thread reading([&] {
    while (!done.load(std::memory_order_relaxed)) {
      for (std::uint64_t i = 0; i < 8; ++i) {
        const std::uint64_t word = load_acquire(this->end_.peer_words + i);
        if (word != 0 && word != UINT64_MAX) ++mixed;
      }
      ++looks;
    }
  });
  for (int round = 0; round < this->kMostPuts && looks < this->kLooks; ++round) {
    const std::vector<std::uint64_t> words(8, round % 2 == 0 ? UINT64_MAX : 0);
    if (!ok(this->put(0, words.data(), 64))) ADD_FAILURE() << "put " << round;
  }
  done = true;
  reading.join();
  EXPECT_EQ(mixed, 0U);
}

TYPED_TEST_P(TransportConformance, KeepsTheByteOrderItClaims) {
  if (this->end_.transport->info().byte_order == ByteOrder::kUnspecified) {
    GTEST_SKIP() << "claims no order";
  }
  // The last word of each line announces the other seven.
  std::atomic<bool> done{false};
  std::atomic<std::uint64_t> looks{0};
  std::atomic<std::uint64_t> wrong{0};
  const std::uint64_t* line = this->end_.peer_words;
  for (std::uint64_t i = 0; i < 8; ++i) store_relaxed(this->end_.peer_words + i, 0);
  std::thread reading([&] {
    while (!done.load(std::memory_order_relaxed)) {
      const std::uint64_t announced = load_acquire(line + 7);
      for (std::uint64_t i = 0; i < 7; ++i) {
        if (load_relaxed(line + i) < announced) ++wrong;
      }
      ++looks;
    }
  });
  for (std::uint64_t value = 1; value <= this->kMostPuts && looks < this->kLooks; ++value) {
    const std::vector<std::uint64_t> words(8, value);
    if (!ok(this->put(0, words.data(), 64))) ADD_FAILURE() << "put " << value;
  }
  done = true;
  reading.join();
  EXPECT_EQ(wrong, 0U);
}

TYPED_TEST_P(TransportConformance, RefusesWhatWouldLieOutsideAndWritesNothing) {
  const auto words = this->pattern(16, 5);
  const std::uint64_t end = this->end_.window_bytes;
  const auto refused = [](Status status) {
    return status == Status::kInvalid || status == Status::kTooLarge;
  };
  EXPECT_TRUE(refused(this->put(end, words.data(), 8)));
  EXPECT_TRUE(refused(this->put(end - 56, words.data(), 64)));
  EXPECT_TRUE(refused(this->put(end + 64, words.data(), 64)));
  EXPECT_TRUE(refused(this->put(UINT64_MAX - 63, words.data(), 64))) << "offset + size wraps";
  EXPECT_TRUE(refused(this->put(UINT64_MAX - 7, words.data(), 64))) << "offset + size wraps";
  EXPECT_EQ(this->touched_outside(0, 0), 0U);
  EXPECT_EQ(this->put(0, words.data(), 64), Status::kOk) << "a refusal does no harm to the link";
  EXPECT_TRUE(this->end_.transport->failure().empty());
}

TYPED_TEST_P(TransportConformance, RefusesWhatIsNotWholeWords) {
  const auto words = this->pattern(16, 6);
  EXPECT_EQ(this->put(4, words.data(), 64), Status::kInvalid);
  EXPECT_EQ(this->put(0, words.data(), 63), Status::kInvalid);
  EXPECT_EQ(this->put(0, words.data(), 0), Status::kInvalid);
  EXPECT_EQ(this->touched_outside(0, 0), 0U);
}

TYPED_TEST_P(TransportConformance, RefusesAPutLargerThanItSays) {
  const std::uint64_t too_large = std::uint64_t{this->end_.transport->info().max_put_bytes} + 64;
  const std::vector<std::uint64_t> words(too_large / 8, 1);
  EXPECT_EQ(this->put(0, words.data(), too_large), Status::kTooLarge);
  EXPECT_EQ(this->touched_outside(0, 0), 0U);
}

TYPED_TEST_P(TransportConformance, TellsFactsThatALinkCanLiveWith) {
  const Info& info = this->end_.transport->info();
  EXPECT_STRNE(info.name, "");
  EXPECT_EQ(info.window_bytes, this->end_.window_bytes);
  EXPECT_GE(info.max_put_bytes, 4096U) << "the largest slot, and a batch, are one put";
}

TYPED_TEST_P(TransportConformance, TakesMoreThanItsDepthWhenProgressIsCalled) {
  const std::uint64_t count = 4 * std::uint64_t{this->end_.transport->info().depth} + 1000;
  for (std::uint64_t value = 1; value <= count; ++value) {
    ASSERT_EQ(this->put(8 * (value % 64), &value, 8), Status::kOk) << "put " << value;
  }
  EXPECT_TRUE(this->arrives(count % 64, count));
  EXPECT_EQ(this->end_.transport->progress(), Status::kOk);
}

TYPED_TEST_P(TransportConformance, TakesAListOfPutsUpToTheFirstThatCannotGo) {
  Transport& transport = *this->end_.transport;
  const auto words = this->pattern(48, 8);
  const PutRequest puts[] = {
      {512, words.data(), 64}, {2048, words.data() + 8, 320}, {4, &words[0], 8}};
  Status status = Status::kInvalid;
  EXPECT_EQ(transport.put_list(std::span(puts).first(2), &status), 2U);
  EXPECT_EQ(status, Status::kOk);
  EXPECT_TRUE(this->arrives(64, {words.begin(), words.begin() + 8}));
  EXPECT_TRUE(this->arrives(256, {words.begin() + 8, words.end()}));
  EXPECT_EQ(transport.put_list(puts, &status), 2U);
  EXPECT_EQ(status, Status::kInvalid);
  EXPECT_EQ(transport.put_list({}, &status), 0U);
  EXPECT_EQ(status, Status::kOk);
}

TYPED_TEST_P(TransportConformance, IsGoodUntilItIsClosedAndThenSaysWhy) {
  Transport& transport = *this->end_.transport;
  const auto words = this->pattern(8, 9);
  EXPECT_EQ(transport.progress(), Status::kOk);
  EXPECT_EQ(transport.failure(), "");
  transport.close();
  EXPECT_EQ(transport.put(0, words.data(), 64), Status::kTransport);
  EXPECT_EQ(transport.progress(), Status::kTransport);
  EXPECT_NE(transport.failure(), "");
  EXPECT_EQ(this->touched_outside(0, 0), 0U);
  transport.close();
  EXPECT_EQ(transport.put(0, words.data(), 64), Status::kTransport);
}

TYPED_TEST_P(TransportConformance, LingersWithoutHarmForWhatIsUnderWay) {
  Transport& transport = *this->end_.transport;
  for (std::uint64_t value = 1; value <= 100; ++value) {
    ASSERT_EQ(this->put(8 * (value % 64), &value, 8), Status::kOk) << "put " << value;
    if (value % 25 == 0) transport.linger();
  }
  EXPECT_TRUE(this->arrives(100 % 64, 100));
  EXPECT_EQ(transport.progress(), Status::kOk);
  transport.linger();
  transport.close();
  transport.linger();
  EXPECT_NE(transport.failure(), "");
}

TYPED_TEST_P(TransportConformance, MapsNoLineOutsideNorOnceClosedAndAStoreToOneIsAPut) {
  Transport& transport = *this->end_.transport;
  EXPECT_EQ(transport.mapped_line(this->end_.window_bytes), nullptr);
  EXPECT_EQ(transport.mapped_line(~std::uint64_t{63}), nullptr);
  for (const std::uint64_t offset : {std::uint64_t{64}, this->end_.window_bytes - 64}) {
    std::uint64_t* line = transport.mapped_line(offset);
    if (line == nullptr) continue;  // not of this transport; which ones do is told of each
    const auto words = this->pattern(8, offset);
    store_line(line, words.data(), words[7]);
    EXPECT_TRUE(this->arrives(offset / 8, words));
    EXPECT_EQ(this->touched_outside(offset / 8, 8), 0U);
    for (std::uint64_t i = 0; i < 8; ++i) {
      store_relaxed(this->end_.peer_words + offset / 8 + i, this->kUntouched);
    }
  }
  transport.close();
  EXPECT_EQ(transport.mapped_line(64), nullptr);
}

TYPED_TEST_P(TransportConformance, CarriesARingAndItsStatusLine) {
  // The use it is made for: slots of every size through a small ring, read by the peer's CPU.
  using namespace ring_support;
  for (const std::uint32_t slot_bytes : {64U, 192U, 512U}) {
    for (std::uint64_t i = 0; i < this->word_count_; ++i) {
      store_relaxed(this->end_.peer_words + i, 0);
    }
    const Geometry geometry{ring::kRingOffsetMinBytes, slot_bytes, 8};
    Writer writer(geometry, kEpoch, 1, 0);
    Reader reader(this->end_.peer_words, geometry, kEpoch, 1);
    Words out(slot_bytes / 8);
    while (reader.next_sequence() <= 200) {
      if (writer.has_credit(Lane::kNormal)) {
        Words slot = message(slot_bytes, writer.next_sequence());
        writer.seal(slot.data());
        ASSERT_EQ(this->put(writer.next_offset_bytes(), slot.data(), slot_bytes), Status::kOk);
        writer.advance();
        if (writer.next_sequence() % 3 != 0) continue;
      }
      const std::uint64_t sequence = reader.next_sequence();
      ASSERT_TRUE(eventually([&] { return ok(reader.read(out.data())); })) << sequence;
      ASSERT_TRUE(holds(out.data(), slot_bytes, sequence)) << sequence;
      ASSERT_EQ(writer.on_consumed(sequence), Status::kOk);
    }
  }
}

REGISTER_TYPED_TEST_SUITE_P(
    TransportConformance, WritesEveryWordAndNothingBesideIt,
    ReachesTheFirstAndTheLastWordOfTheWindow, IsDoneWithTheSourceWhenPutReturns,
    LandsTwoPutsToTheSameWordInOrder, LetsEveryWordArriveWhole, KeepsTheByteOrderItClaims,
    RefusesWhatWouldLieOutsideAndWritesNothing, RefusesWhatIsNotWholeWords,
    RefusesAPutLargerThanItSays, TellsFactsThatALinkCanLiveWith,
    TakesAListOfPutsUpToTheFirstThatCannotGo, TakesMoreThanItsDepthWhenProgressIsCalled,
    IsGoodUntilItIsClosedAndThenSaysWhy, LingersWithoutHarmForWhatIsUnderWay,
    MapsNoLineOutsideNorOnceClosedAndAStoreToOneIsAPut, CarriesARingAndItsStatusLine);

}  // namespace rdmaorder::transport
