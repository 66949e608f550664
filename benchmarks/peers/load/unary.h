// Unary calls: a closed loop of callers, or an open one with Poisson arrivals.
#pragma once

#include <memory>
#include <random>
#include <vector>

#include <grpcpp/completion_queue.h>
#include <grpcpp/generic/generic_stub.h>

#include "answers.h"
#include "channels.h"
#include "report.h"

class Unary {
 public:
  Unary(const Options& options, Channels& channels, Report& report)
      : options_(options), channels_(channels), report_(report), expectation_(options) {
    grpc::Slice payload = read_payload(options.payload);
    request_ = grpc::ByteBuffer(&payload, 1);
  }

  void run() {
    options_.rate > 0 ? open_loop() : closed_loop();
    queue_.Shutdown();
  }

 private:
  struct Call {
    std::unique_ptr<grpc::ClientContext> context;
    std::unique_ptr<grpc::ClientAsyncResponseReader<grpc::ByteBuffer>> reader;
    grpc::ByteBuffer answer;
    grpc::Status status;
    Clock::time_point planned;
    std::size_t caller = 0;
  };

  void closed_loop() {
    for (int caller = 0; caller < options_.callers; ++caller) {
      calls_.push_back(std::make_unique<Call>());
      calls_.back()->caller = static_cast<std::size_t>(caller);
      begin(*calls_.back(), Clock::now());
    }
    void* tag = nullptr;
    bool ok = false;
    while (in_flight_ && queue_.Next(&tag, &ok)) {
      auto& call = *static_cast<Call*>(tag);
      const auto now = Clock::now();
      finish(call, now);
      if (report_.going(now)) begin(call, Clock::now());
    }
  }

  void open_loop() {
    std::mt19937_64 random(options_.seed);
    std::exponential_distribution<double> gap(options_.rate);
    auto next = after(report_.began(), gap(random));
    std::vector<Call*> idle;
    std::size_t caller = 0;
    void* tag = nullptr;
    bool ok = false;
    while (next < report_.end() || in_flight_) {
      const auto now = Clock::now();
      if (next < report_.end() && now >= next) {
        if (idle.empty()) {
          calls_.push_back(std::make_unique<Call>());
          idle.push_back(calls_.back().get());
        }
        Call& call = *idle.back();
        idle.pop_back();
        call.caller = caller++;
        report_.began_late(seconds_between(next, now));
        begin(call, next);
        next = after(next, gap(random));
        continue;
      }
      // gRPC's timers count milliseconds: near the next arrival nothing but looking is exact enough.
      const double left = next < report_.end() ? seconds_between(now, next) : 0.1;
      const auto wait = std::chrono::milliseconds(left > 0.004 ? static_cast<int>(left * 1e3) - 2 : 0);
      if (queue_.AsyncNext(&tag, &ok, std::chrono::system_clock::now() + wait) == grpc::CompletionQueue::GOT_EVENT) {
        finish(*static_cast<Call*>(tag), Clock::now());
        idle.push_back(static_cast<Call*>(tag));
      }
    }
  }

  void begin(Call& call, Clock::time_point planned) {
    call.planned = planned;
    call.context = std::make_unique<grpc::ClientContext>();
    call.context->set_deadline(std::chrono::system_clock::now() +
                               std::chrono::milliseconds(static_cast<long>(options_.timeout * 1e3)));
    channels_.authorize(*call.context, call.caller);
    call.reader = channels_[call.caller].PrepareUnaryCall(call.context.get(), options_.method, request_, &queue_);
    call.reader->StartCall();
    call.reader->Finish(&call.answer, &call.status, &call);
    ++in_flight_;
  }

  void finish(Call& call, Clock::time_point now) {
    --in_flight_;
    if (!call.status.ok()) {
      report_.failed(std::to_string(call.status.error_code()) + ": " + call.status.error_message());
    } else {
      report_.answered(call.planned, now, expectation_.met(whole(call.answer)));
    }
    call.answer.Clear();
  }

  const Options& options_;
  Channels& channels_;
  Report& report_;
  Expectation expectation_;
  grpc::ByteBuffer request_;
  grpc::CompletionQueue queue_;
  std::vector<std::unique_ptr<Call>> calls_;
  std::size_t in_flight_ = 0;
};
