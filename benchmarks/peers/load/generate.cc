// A load generator for gRPC that costs little beside what it measures: one thread, one completion queue, raw bytes.
#include <iostream>

#include "stream.h"
#include "unary.h"

int main(int argc, char** argv) {
  const Options options = parse(argc, argv);
  if (options.stream && options.rate > 0) usage("an open loop is for unary calls");
  Channels channels(options);
  if (!channels.wait(30)) {
    std::cerr << "no connection to " << options.address << "\n";
    return 1;
  }
  Report report(options);
  if (options.stream) {
    Streams(options, channels, report).run();
  } else {
    Unary(options, channels, report).run();
  }
  report.print();
}
