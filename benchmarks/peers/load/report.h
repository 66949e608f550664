// What was seen, and how it is told.
#pragma once

#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <numeric>
#include <string>
#include <vector>

#include "options.h"

using Clock = std::chrono::steady_clock;

inline double seconds_between(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

inline Clock::time_point after(Clock::time_point from, double seconds) {
  return from + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

inline double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) { return time.tv_sec + time.tv_usec * 1e-6; };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

class Report {
 public:
  explicit Report(const Options& options)
      : options_(options), began_(Clock::now()), from_(after(began_, options.warm)), to_(after(from_, options.seconds)) {}

  Clock::time_point began() const { return began_; }
  Clock::time_point end() const { return to_; }

  // Whether a closed loop goes on: to the end, and where calls are long until there are a few.
  bool going(Clock::time_point now) const {
    return now < to_ || (alone() && !errors_ && !unexpected_ && latencies_.size() < least);
  }

  // An answer. `since` is when the call was planned; what counts is the time of its answer in a closed loop, which
  // is never behind, and of its plan in an open one, where else the slowest would be left out. A caller alone may have
  // long calls: those count that began within the time, for as long as they took together.
  void answered(Clock::time_point since, Clock::time_point now, bool as_expected) {
    const auto counts = options_.rate > 0 || alone() ? since : now;
    if (counts < from_ || (!alone() && counts >= to_)) return;
    if (!as_expected) {
      ++unexpected_;
      return;
    }
    latencies_.push_back(seconds_between(since, now));
  }

  // Errors count whenever they come: none is to be passed over as part of the warm-up.
  void failed(const std::string& why) {
    if (!errors_++) first_error_ = why;
  }

  void unexpected() { ++unexpected_; }
  void began_late(double seconds) { late_.push_back(seconds); }

  void print() {
    const double wall = seconds_between(began_, Clock::now());
    double seconds = options_.seconds;
    if (alone() && !latencies_.empty()) seconds = std::accumulate(latencies_.begin(), latencies_.end(), 0.0);
    std::printf(
        "{\"calls\": %zu, \"seconds\": %.6f, \"rate\": %.3f, \"p50_ms\": %.4f, \"p90_ms\": %.4f, \"p99_ms\": %.4f, "
        "\"p999_ms\": %.4f, \"max_ms\": %.4f, \"errors\": %zu, \"error\": \"%s\", \"unexpected\": %zu, "
        "\"cpu_share\": %.3f, \"late_p99_ms\": %.4f}\n",
        latencies_.size(), seconds, latencies_.size() / seconds, at(latencies_, 0.5),
        at(latencies_, 0.9), at(latencies_, 0.99), at(latencies_, 0.999), at(latencies_, 1.0), errors_,
        escaped(first_error_).c_str(), unexpected_, cpu_seconds() / wall, at(late_, 0.99));
  }

 private:
  static constexpr std::size_t least = 3;

  bool alone() const { return options_.callers == 1 && options_.rate <= 0 && !options_.stream; }

  // A percentile in milliseconds; -1 where nothing was seen.
  static double at(std::vector<double>& values, double share) {
    if (values.empty()) return -1.0;
    auto place = values.begin() + static_cast<std::ptrdiff_t>(share * static_cast<double>(values.size() - 1));
    std::nth_element(values.begin(), place, values.end());
    return *place * 1e3;
  }

  static std::string escaped(const std::string& text) {
    std::string result;
    for (const char one : text.substr(0, 400)) {
      if (one == '"' || one == '\\') result.push_back('\\');
      result.push_back(static_cast<unsigned char>(one) < 0x20 || static_cast<unsigned char>(one) > 0x7e ? ' ' : one);
    }
    return result;
  }

  const Options& options_;
  Clock::time_point began_, from_, to_;
  std::vector<double> latencies_, late_;
  std::size_t errors_ = 0, unexpected_ = 0;
  std::string first_error_;
};
