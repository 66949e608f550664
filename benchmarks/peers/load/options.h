// What is asked of the generator.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <string>

struct Options {
  std::string address;
  std::string method;
  std::string payload;       // File with the bytes of the request message.
  std::string ca;            // PEM file of the authorities of the server's certificate; without it the server has no TLS.
  std::string tokens;        // File with a bearer token a line; calls send them in turn.
  int callers = 1;           // Closed loop: calls in flight. Streams: how many of them.
  int connections = 1;       // Shared by the callers in turn.
  double seconds = 3.0;      // Measured, after those of `warm`.
  double warm = 1.0;
  double timeout = 60.0;     // Deadline of one call.
  double rate = 0.0;         // Open loop: calls a second, Poisson arrivals. 0 is a closed loop.
  std::uint64_t seed = 1;
  bool stream = false;       // Messages of bidirectional streams rather than unary calls.
  int window = 1;            // Streams: messages without an answer at most, for each.
  int sequence_field = 1;    // Streams: field of request and answer with the number of the message.
  int error_field = 0;       // Streams: field that only an answer has which tells of an error.
  bool expects_double = false;
  double expected_double = 0.0;
  double tolerance = 1e-9;   // Relative.
  std::string expected_bytes;
};

inline std::string from_hex(const std::string& text) {
  std::string bytes;
  for (std::size_t at = 0; at + 1 < text.size(); at += 2) {
    bytes.push_back(static_cast<char>(std::stoi(text.substr(at, 2), nullptr, 16)));
  }
  return bytes;
}

[[noreturn]] inline void usage(const std::string& wrong) {
  std::cerr << wrong << "\n"
            << "generate --address HOST:PORT --method /package.Service/Method --payload FILE [--callers N]\n"
               "  [--connections N] [--seconds S] [--warm S] [--timeout S] [--rate CALLS_A_SECOND] [--seed N]\n"
               "  [--stream [--window N] [--sequence-field N] [--error-field N]]\n"
               "  [--expect-double VALUE] [--tolerance RELATIVE] [--expect-hex BYTES]\n"
               "  [--ca FILE] [--tokens FILE]\n";
  std::exit(2);
}

inline Options parse(int argc, char** argv) {
  Options options;
  for (int at = 1; at < argc; ++at) {
    const std::string name = argv[at];
    if (name == "--stream") {
      options.stream = true;
      continue;
    }
    if (at + 1 == argc) usage("no value: " + name);
    const std::string value = argv[++at];
    if (name == "--address") options.address = value;
    else if (name == "--method") options.method = value;
    else if (name == "--payload") options.payload = value;
    else if (name == "--ca") options.ca = value;
    else if (name == "--tokens") options.tokens = value;
    else if (name == "--callers") options.callers = std::stoi(value);
    else if (name == "--connections") options.connections = std::stoi(value);
    else if (name == "--seconds") options.seconds = std::stod(value);
    else if (name == "--warm") options.warm = std::stod(value);
    else if (name == "--timeout") options.timeout = std::stod(value);
    else if (name == "--rate") options.rate = std::stod(value);
    else if (name == "--seed") options.seed = std::stoull(value);
    else if (name == "--window") options.window = std::stoi(value);
    else if (name == "--sequence-field") options.sequence_field = std::stoi(value);
    else if (name == "--error-field") options.error_field = std::stoi(value);
    else if (name == "--tolerance") options.tolerance = std::stod(value);
    else if (name == "--expect-hex") options.expected_bytes = from_hex(value);
    else if (name == "--expect-double") {
      options.expects_double = true;
      options.expected_double = std::stod(value);
    } else usage("unknown: " + name);
  }
  if (options.address.empty() || options.method.empty() || options.payload.empty()) {
    usage("--address, --method and --payload are needed");
  }
  if (options.callers < 1 || options.connections < 1 || options.window < 1) usage("a number is less than 1");
  return options;
}
