// Messages of bidirectional streams, each with so many on their way as the window says. Answers may come in any order:
// a message has its number in a field, and so has its answer.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include <grpcpp/completion_queue.h>
#include <grpcpp/generic/generic_stub.h>

#include "answers.h"
#include "channels.h"
#include "report.h"

class Streams {
 public:
  Streams(const Options& options, Channels& channels, Report& report)
      : options_(options), channels_(channels), report_(report), expectation_(options),
        payload_(read_payload(options.payload)) {}

  void run() {
    for (int each = 0; each < options_.callers; ++each) {
      streams_.push_back(std::make_unique<Stream>());
      auto& stream = *streams_.back();
      // One deadline for the whole stream: long enough for what is under way at the end.
      stream.context.set_deadline(std::chrono::system_clock::now() +
                                  std::chrono::milliseconds(static_cast<long>(
                                      (options_.warm + options_.seconds + options_.timeout) * 1e3)));
      stream.call = channels_[static_cast<std::size_t>(each)].PrepareCall(&stream.context, options_.method, &queue_);
      stream.call->StartCall(stream.tag(Step::started));
    }
    std::size_t open = streams_.size();
    void* tag = nullptr;
    bool ok = false;
    while (open && queue_.Next(&tag, &ok)) {
      auto& event = *static_cast<Event*>(tag);
      if (event.step == Step::finished) {
        finished(*event.stream);
        --open;
      } else {
        advance(*event.stream, event.step, ok);
      }
    }
    queue_.Shutdown();
  }

 private:
  enum class Step { started, wrote, read, half_closed, finished };
  struct Stream;
  struct Event {
    Stream* stream;
    Step step;
  };
  struct Stream {
    Stream() : events{{this, Step::started}, {this, Step::wrote}, {this, Step::read}, {this, Step::half_closed},
                      {this, Step::finished}} {}
    void* tag(Step step) { return &events[static_cast<int>(step)]; }

    grpc::ClientContext context;
    std::unique_ptr<grpc::GenericClientAsyncReaderWriter> call;
    grpc::ByteBuffer answer;
    grpc::Status status;
    Event events[5];
    std::unordered_map<std::uint64_t, Clock::time_point> on_their_way;
    std::uint64_t sequence = 0;
    bool writing = false;      // A write, or the half-close, is under way: gRPC takes one at a time.
    bool half_closed = false;
    bool ended = false;        // Nothing more comes.
    bool finishing = false;
  };

  void advance(Stream& stream, Step step, bool ok) {
    switch (step) {
      case Step::started:
        if (ok) stream.call->Read(&stream.answer, stream.tag(Step::read));
        else stream.ended = true;
        break;
      case Step::wrote:
      case Step::half_closed:
        stream.writing = false;
        break;
      default:
        if (ok) {
          answered(stream);
          stream.call->Read(&stream.answer, stream.tag(Step::read));
        } else {
          stream.ended = true;
        }
    }
    go_on(stream);
  }

  void go_on(Stream& stream) {
    if (stream.writing || stream.finishing) return;
    if (stream.ended) {
      stream.finishing = true;
      stream.call->Finish(&stream.status, stream.tag(Step::finished));
    } else if (Clock::now() >= report_.end()) {
      if (stream.on_their_way.empty() && !stream.half_closed) {
        stream.half_closed = stream.writing = true;
        stream.call->WritesDone(stream.tag(Step::half_closed));
      }
    } else if (stream.on_their_way.size() < static_cast<std::size_t>(options_.window)) {
      send(stream);
    }
  }

  void send(Stream& stream) {
    const auto number = ++stream.sequence;
    grpc::Slice parts[2] = {
        grpc::Slice(varint(static_cast<std::uint64_t>(options_.sequence_field) << 3) + varint(number)), payload_};
    stream.on_their_way.emplace(number, Clock::now());
    stream.writing = true;
    stream.call->Write(grpc::ByteBuffer(parts, 2), stream.tag(Step::wrote));
  }

  void answered(Stream& stream) {
    const auto now = Clock::now();
    const grpc::Slice answer = whole(stream.answer);
    const Envelope envelope(answer, options_);
    const auto sent = stream.on_their_way.find(envelope.sequence);
    if (!envelope.sound || sent == stream.on_their_way.end()) {
      report_.unexpected();
      return;
    }
    if (envelope.error) {
      report_.failed("answered with an error: " + std::string(reinterpret_cast<const char*>(answer.begin()), answer.size()));
    } else {
      report_.answered(sent->second, now, expectation_.met(answer));
    }
    stream.on_their_way.erase(sent);
  }

  void finished(Stream& stream) {
    if (!stream.status.ok()) {
      report_.failed(std::to_string(stream.status.error_code()) + ": " + stream.status.error_message());
    } else if (!stream.on_their_way.empty()) {
      report_.failed("the stream ended with messages unanswered");
    }
  }

  const Options& options_;
  Channels& channels_;
  Report& report_;
  Expectation expectation_;
  grpc::Slice payload_;
  grpc::CompletionQueue queue_;
  std::vector<std::unique_ptr<Stream>> streams_;
};
