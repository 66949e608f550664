// What answers are held to: a status alone would let an empty or a wrong answer pass.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>

#include <grpcpp/support/byte_buffer.h>

#include "options.h"

// The bytes of a message in one piece. They are copied only where they came in several.
inline grpc::Slice whole(const grpc::ByteBuffer& message) {
  grpc::Slice slice;
  if (!message.Valid()) return slice;
  if (!message.TrySingleSlice(&slice).ok()) message.DumpToSingleSlice(&slice);
  return slice;
}

class Expectation {
 public:
  explicit Expectation(const Options& options) : options_(options) {}

  // Whether the answer has the double near enough (at any place: this knows no message types), and the bytes.
  bool met(const grpc::Slice& answer) const {
    const auto* bytes = answer.begin();
    const std::size_t size = answer.size();
    if (!options_.expected_bytes.empty() &&
        memmem(bytes, size, options_.expected_bytes.data(), options_.expected_bytes.size()) == nullptr) {
      return false;
    }
    return !options_.expects_double || has_double(bytes, size);
  }

 private:
  bool has_double(const std::uint8_t* bytes, std::size_t size) const {
    const double allowed = options_.tolerance * std::fabs(options_.expected_double);
    for (std::size_t at = 0; at + sizeof(double) <= size; ++at) {
      double value;
      std::memcpy(&value, bytes + at, sizeof value);
      if (std::fabs(value - options_.expected_double) <= allowed) return true;
    }
    return false;
  }

  const Options& options_;
};

inline std::string varint(std::uint64_t value) {
  std::string bytes;
  while (value >= 0x80) {
    bytes.push_back(static_cast<char>(value | 0x80));
    value >>= 7;
  }
  bytes.push_back(static_cast<char>(value));
  return bytes;
}

// The top level of a message of the protobuf wire format, as far as a stream needs it.
struct Envelope {
  std::uint64_t sequence = 0;
  bool error = false;
  bool sound = true;

  Envelope(const grpc::Slice& message, const Options& options) {
    const std::uint8_t* at = message.begin();
    const std::uint8_t* end = message.end();
    while (at < end) {
      const std::uint64_t tag = read(&at, end);
      const int field = static_cast<int>(tag >> 3);
      std::uint64_t value = 0;
      switch (tag & 7) {
        case 0: value = read(&at, end); break;
        case 1: at += 8; break;
        case 2: value = read(&at, end); at += value < static_cast<std::uint64_t>(end - at) ? value : end - at; break;
        case 5: at += 4; break;
        default: sound = false; return;
      }
      if (field == options.sequence_field) sequence = value;
      if (field == options.error_field) error = true;
    }
  }

 private:
  static std::uint64_t read(const std::uint8_t** at, const std::uint8_t* end) {
    std::uint64_t value = 0;
    for (int shift = 0; *at < end && shift < 64; shift += 7) {
      const std::uint8_t byte = *(*at)++;
      value |= static_cast<std::uint64_t>(byte & 0x7f) << shift;
      if (!(byte & 0x80)) break;
    }
    return value;
  }
};
