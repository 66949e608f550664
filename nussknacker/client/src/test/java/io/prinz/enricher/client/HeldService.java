package io.prinz.enricher.client;

import com.google.protobuf.Any;
import com.google.protobuf.Duration;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.grpc.Grpc;
import io.grpc.InsecureServerCredentials;
import io.grpc.Metadata;
import io.grpc.Server;
import io.grpc.ServerCall;
import io.grpc.ServerCallHandler;
import io.grpc.ServerCredentials;
import io.grpc.ServerInterceptor;
import io.grpc.ServerInterceptors;
import io.grpc.ServerServiceDefinition;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.ServerCalls;
import io.grpc.stub.StreamObserver;
import io.prinz.enricher.v1.Column;
import io.prinz.enricher.v1.ColumnBatch;
import io.prinz.enricher.v1.DoubleValues;
import io.prinz.enricher.v1.Field;
import io.prinz.enricher.v1.ScalarType;
import io.prinz.enricher.v1.ScoreRequest;
import io.prinz.enricher.v1.ScoreResponse;
import io.prinz.enricher.v1.Signature;
import io.prinz.enricher.v1.Type;
import java.io.IOException;
import java.util.List;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;

/**
 * A gRPC server of which a test holds each message, and answers it when and how it likes: what the real service can't be
 * made to do at a given moment. It doubles {@code x}.
 */
final class HeldService implements AutoCloseable {
  static final Signature SIGNATURE =
      Signature.newBuilder()
          .addInputs(field("x"))
          .addOutputs(field("y"))
          .setDigest("0123456789abcdef0123456789abcdef")
          .build();

  final BlockingQueue<Held> messages = new LinkedBlockingQueue<>();
  final BlockingQueue<String> authorizations = new LinkedBlockingQueue<>();
  private final ExecutorService answers;
  private final Server server;

  HeldService(ServerCredentials credentials, int port) throws IOException {
    ServerServiceDefinition service =
        ServerServiceDefinition.builder(Methods.SERVICE)
            .addMethod(
                Methods.SCORE,
                ServerCalls.asyncUnaryCall((request, observer) -> messages.add(new Held(request, observer))))
            .build();
    // Its own, so that a test can tell the client's threads from the server's.
    answers = Executors.newCachedThreadPool(work -> new Thread(work, "held-service"));
    server =
        Grpc.newServerBuilderForPort(port, credentials)
            .executor(answers)
            .addService(ServerInterceptors.intercept(service, new Recorder()))
            .build()
            .start();
  }

  HeldService() throws IOException {
    this(InsecureServerCredentials.create(), 0);
  }

  int port() {
    return server.getPort();
  }

  String address() {
    return "127.0.0.1:" + port();
  }

  /** Waits for the next message. */
  Held next() throws InterruptedException {
    Held held = messages.poll(20, TimeUnit.SECONDS);
    if (held == null) {
      throw new AssertionError("no message came");
    }
    return held;
  }

  @Override
  public void close() {
    server.shutdownNow();
    try {
      server.awaitTermination(20, TimeUnit.SECONDS);
    } catch (InterruptedException stop) {
      Thread.currentThread().interrupt();
    }
    answers.shutdownNow();
  }

  private static Field field(String name) {
    Type type = Type.newBuilder().setScalar(ScalarType.SCALAR_TYPE_DOUBLE).build();
    return Field.newBuilder().setName(name).setType(type).setRequired(true).build();
  }

  private final class Recorder implements ServerInterceptor {
    @Override
    public <Q, R> ServerCall.Listener<Q> interceptCall(
        ServerCall<Q, R> call, Metadata headers, ServerCallHandler<Q, R> next) {
      String told = headers.get(Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER));
      authorizations.add(told == null ? "" : told);
      return next.startCall(call, headers);
    }
  }

  /** A message that waits for its answer. */
  static final class Held {
    final ScoreRequest request;
    private final StreamObserver<ScoreResponse> observer;

    Held(ScoreRequest request, StreamObserver<ScoreResponse> observer) {
      this.request = request;
      this.observer = observer;
    }

    List<Double> rows() {
      return request.getColumns().getColumns(0).getDoubles().getValuesList();
    }

    void answer() {
      DoubleValues.Builder doubled = DoubleValues.newBuilder();
      rows().forEach(x -> doubled.addValues(2 * x));
      ColumnBatch columns =
          ColumnBatch.newBuilder()
              .setNumRows(rows().size())
              .addColumns(Column.newBuilder().setName("y").setDoubles(doubled))
              .build();
      answer(ScoreResponse.newBuilder().setColumns(columns).build());
    }

    void answer(ScoreResponse response) {
      observer.onNext(response);
      observer.onCompleted();
    }

    void refuse(io.grpc.Status.Code code, String reason, long retryAfterMillis) {
      com.google.rpc.Status.Builder status =
          com.google.rpc.Status.newBuilder()
              .setCode(code.value())
              .setMessage("refused")
              .addDetails(Any.pack(ErrorInfo.newBuilder().setReason(reason).setDomain("prinz.enricher").build()));
      if (retryAfterMillis >= 0) {
        Duration delay =
            Duration.newBuilder()
                .setSeconds(retryAfterMillis / 1000)
                .setNanos((int) (retryAfterMillis % 1000) * 1_000_000)
                .build();
        status.addDetails(Any.pack(RetryInfo.newBuilder().setRetryDelay(delay).build()));
      }
      observer.onError(StatusProto.toStatusRuntimeException(status.build()));
    }
  }
}
