// The least that a gRPC server can cost: one thread which answers any message of any method with its own bytes, or the
// first of them: `echo PORT [BYTES]`. It ends with its standard input.
#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

namespace {

// Bytes of an answer at most; a model's is small, however many rows it was asked for.
std::size_t answer_bytes = 0;

grpc::ByteBuffer answer_to(const grpc::ByteBuffer& request) {
  if (answer_bytes == 0 || request.Length() <= answer_bytes) return request;
  std::vector<grpc::Slice> slices;
  request.Dump(&slices);
  // The first slice is enough: a message is cut where it is larger than one.
  grpc::Slice first = slices.front().size() > answer_bytes ? slices.front().sub(0, answer_bytes) : slices.front();
  return grpc::ByteBuffer(&first, 1);
}

// One call: read and write in turn until the caller has no more. A unary call is such a call with one message.
class Call {
 public:
  Call(grpc::AsyncGenericService* service, grpc::ServerCompletionQueue* queue)
      : service_(service), queue_(queue), stream_(&context_) {
    service_->RequestCall(&context_, &stream_, queue_, queue_, this);
  }

  // Returns whether the call goes on.
  bool advance(bool ok) {
    switch (step_) {
      case Step::requested:
        if (!ok) return false;
        new Call(service_, queue_);
        return read();
      case Step::read:
        if (!ok) {
          step_ = Step::finished;
          stream_.Finish(grpc::Status::OK, this);
          return true;
        }
        step_ = Step::wrote;
        stream_.Write(answer_to(message_), this);
        return true;
      case Step::wrote:
        return ok && read();
      default:
        return false;
    }
  }

 private:
  enum class Step { requested, read, wrote, finished };

  bool read() {
    step_ = Step::read;
    stream_.Read(&message_, this);
    return true;
  }

  grpc::AsyncGenericService* service_;
  grpc::ServerCompletionQueue* queue_;
  grpc::GenericServerContext context_;
  grpc::GenericServerAsyncReaderWriter stream_;
  grpc::ByteBuffer message_;
  Step step_ = Step::requested;
};

}  // namespace

int main(int argc, char** argv) {
  const std::string port = argc > 1 ? argv[1] : "0";
  if (argc > 2) answer_bytes = std::strtoull(argv[2], nullptr, 10);
  grpc::AsyncGenericService service;
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:" + port, grpc::InsecureServerCredentials());
  builder.SetMaxReceiveMessageSize(-1);
  builder.SetMaxSendMessageSize(-1);
  builder.RegisterAsyncGenericService(&service);
  auto queue = builder.AddCompletionQueue();
  auto server = builder.BuildAndStart();
  if (!server) return 1;
  std::thread([] {
    char byte;
    while (::read(STDIN_FILENO, &byte, 1) > 0) {
    }
    std::_Exit(0);
  }).detach();
  new Call(&service, queue.get());
  void* tag = nullptr;
  bool ok = false;
  while (queue->Next(&tag, &ok)) {
    auto* call = static_cast<Call*>(tag);
    if (!call->advance(ok)) delete call;
  }
}
