package io.prinz.enricher.client;

import io.grpc.MethodDescriptor;
import io.prinz.enricher.v1.GetSignatureRequest;
import io.prinz.enricher.v1.GetSignatureResponse;
import io.prinz.enricher.v1.ListModelsRequest;
import io.prinz.enricher.v1.ListModelsResponse;
import io.prinz.enricher.v1.Model;
import io.prinz.enricher.v1.ModelView;
import io.prinz.enricher.v1.Signature;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.atomic.AtomicBoolean;

/**
 * Finds models and scores them. Safe for threads.
 *
 * <p>Clients of equal connections share channels, threads and messages within a JVM; the last one to be closed ends them.
 */
public final class EnricherClient implements AutoCloseable {
  private static final int PAGE = 1000;

  private final Core core;
  private final AtomicBoolean closed = new AtomicBoolean();

  /**
   * Makes a client; it connects when it is first used.
   *
   * @throws java.io.UncheckedIOException a file for TLS can't be read
   * @throws IllegalArgumentException a file for TLS is damaged or no PEM, or its key has a password
   */
  public EnricherClient(Connection connection) {
    core = Core.acquire(connection);
  }

  /**
   * Lists all models, each with the signatures of its versions. Waits for the answer.
   *
   * @param timeout for all of it
   * @throws EnricherException the service refused, or is not there
   */
  public List<Model> models(Duration timeout) throws EnricherException {
    long deadline = System.nanoTime() + timeout.toNanos();
    List<Model> models = new ArrayList<>();
    String token = "";
    do {
      ListModelsRequest request =
          ListModelsRequest.newBuilder()
              .setPageSize(PAGE)
              .setPageToken(token)
              .setView(ModelView.MODEL_VIEW_FULL)
              .build();
      ListModelsResponse page = await(Methods.LIST_MODELS, request, deadline);
      models.addAll(page.getModelsList());
      token = page.getNextPageToken();
    } while (!token.isEmpty());
    return models;
  }

  /**
   * Tells the signature of a version. Waits for the answer.
   *
   * @throws EnricherException there is no such version, the service refused, or is not there
   */
  public Signature signature(ModelReference model, Duration timeout) throws EnricherException {
    GetSignatureRequest request = GetSignatureRequest.newBuilder().setModel(model.toMessage()).build();
    return await(Methods.GET_SIGNATURE, request, System.nanoTime() + timeout.toNanos()).getSignature();
  }

  /**
   * Prepares to score a model. The answer to a row is that of the signature given here: once the model's is another one,
   * because its alias moved, say, calls fail with the reason SIGNATURE_CHANGED.
   *
   * @param model which version
   * @param signature of it
   * @param params of the prediction by name; those left out have their defaults
   * @param outputs the names of the outputs that are wanted; empty for all
   * @param timeout for each row
   * @throws EnricherException a parameter or an output is not the signature's, or does not fit
   */
  public Scorer scorer(
      ModelReference model, Signature signature, Map<String, ?> params, Collection<String> outputs, Duration timeout)
      throws EnricherException {
    return new Scorer(core, closed::get, model, signature, params, outputs, timeout);
  }

  private <Q, R> R await(MethodDescriptor<Q, R> method, Q request, long deadline) throws EnricherException {
    if (closed.get()) {
      throw EnricherException.closed();
    }
    CompletableFuture<R> future = new CompletableFuture<>();
    core.sender()
        .send(
            method,
            request,
            deadline,
            TraceHeaders.current(),
            new Sender.Outcome<R>() {
              @Override
              public void answered(R response) {
                future.complete(response);
              }

              @Override
              public void failed(EnricherException error) {
                future.completeExceptionally(error);
              }
            });
    try {
      return future.get();
    } catch (ExecutionException failed) {
      throw ((EnricherException) failed.getCause()).own();
    } catch (InterruptedException stop) {
      Thread.currentThread().interrupt();
      throw new EnricherException("CANCELLED", "", "the thread was interrupted");
    }
  }

  /**
   * Lets go of the connection. The last client of it fails the calls that are on their way, and waits some seconds for its
   * threads to end.
   */
  @Override
  public void close() {
    if (closed.compareAndSet(false, true)) {
      core.release();
    }
  }
}
