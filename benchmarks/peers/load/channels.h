// Connections to the server, and the bytes that go over them.
#pragma once

#include <fstream>
#include <iterator>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/security/credentials.h>

#include "options.h"

inline std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) usage("the file can't be read: " + path);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

class Channels {
  static constexpr std::size_t kCallsOfAPrincipal = 256;

 public:
  explicit Channels(const Options& options) {
    if (!options.tokens.empty()) {
      std::istringstream lines(read_file(options.tokens));
      for (std::string line; std::getline(lines, line);) tokens_.push_back("Bearer " + line);
    }
    calls_.resize(static_cast<std::size_t>(options.connections));
    for (int each = 0; each < options.connections; ++each) {
      grpc::ChannelArguments arguments;
      arguments.SetMaxReceiveMessageSize(-1);
      arguments.SetMaxSendMessageSize(-1);
      // Else all channels to one address share a connection.
      arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
      auto channel = grpc::CreateCustomChannel(options.address, credentials(options), arguments);
      channels_.push_back(channel);
      stubs_.push_back(std::make_unique<grpc::GenericStub>(channel));
    }
  }

  // Whether all are connected within some seconds.
  bool wait(int seconds) {
    const auto limit = std::chrono::system_clock::now() + std::chrono::seconds(seconds);
    for (auto& channel : channels_) {
      if (!channel->WaitForConnected(limit)) return false;
    }
    return true;
  }

  grpc::GenericStub& operator[](std::size_t caller) { return *stubs_[caller % stubs_.size()]; }

  // Adds a token to a call, if there are tokens: each connection is of one principal for some calls, then of another.
  void authorize(grpc::ClientContext& context, std::size_t caller) {
    if (tokens_.empty()) return;
    const std::size_t place = caller % channels_.size();
    const std::size_t turn = calls_[place]++ / kCallsOfAPrincipal;
    context.AddMetadata("authorization", tokens_[(place + turn * channels_.size()) % tokens_.size()]);
  }

 private:
  static std::shared_ptr<grpc::ChannelCredentials> credentials(const Options& options) {
    if (options.ca.empty()) return grpc::InsecureChannelCredentials();
    grpc::SslCredentialsOptions tls;
    tls.pem_root_certs = read_file(options.ca);
    return grpc::SslCredentials(tls);
  }

  std::vector<std::string> tokens_;
  std::vector<std::size_t> calls_;
  std::vector<std::shared_ptr<grpc::Channel>> channels_;
  std::vector<std::unique_ptr<grpc::GenericStub>> stubs_;
};

inline grpc::Slice read_payload(const std::string& path) { return grpc::Slice(read_file(path)); }
