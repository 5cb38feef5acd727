// Brings a journal directory into the state from which a writer continues.
#pragma once

#include <functional>
#include <memory>

#include "journal/files.hpp"
#include "rdmaorder/journal.hpp"

namespace rdmaorder::journal {

struct Recovered {
  std::unique_ptr<MappedSegment> segment;  ///< where appending continues
  std::uint64_t append_offset = kSegmentHeaderBytes;
  std::uint64_t last_position = 0;  ///< on stable storage, as everything before it
  ScanResult scan;
};

/// The caller holds the lock of the directory. Reads everything through `visit` (may be empty),
/// moves what is damaged aside (never deletes a byte of it), zeroes the rest of the last segment
/// and brings the whole to stable storage; creates the first segment of an empty directory. Throws
/// Error, and then has changed nothing but file names ending in .new.
Recovered recover(const Config& config, const std::function<void(const Record&)>& visit,
                  FileCalls& calls);

}  // namespace rdmaorder::journal
