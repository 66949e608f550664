package io.prinz.enricher.client;

import com.google.protobuf.Message;
import io.grpc.MethodDescriptor;
import io.grpc.protobuf.ProtoUtils;
import io.prinz.enricher.v1.GetSignatureRequest;
import io.prinz.enricher.v1.GetSignatureResponse;
import io.prinz.enricher.v1.ListModelsRequest;
import io.prinz.enricher.v1.ListModelsResponse;
import io.prinz.enricher.v1.ScoreRequest;
import io.prinz.enricher.v1.ScoreResponse;

/** The methods of the service that are called. */
final class Methods {
  static final String SERVICE = "prinz.enricher.v1.EnricherService";

  static final MethodDescriptor<ListModelsRequest, ListModelsResponse> LIST_MODELS =
      unary("ListModels", ListModelsRequest.getDefaultInstance(), ListModelsResponse.getDefaultInstance());

  static final MethodDescriptor<GetSignatureRequest, GetSignatureResponse> GET_SIGNATURE =
      unary("GetSignature", GetSignatureRequest.getDefaultInstance(), GetSignatureResponse.getDefaultInstance());

  static final MethodDescriptor<ScoreRequest, ScoreResponse> SCORE =
      unary("Score", ScoreRequest.getDefaultInstance(), ScoreResponse.getDefaultInstance());

  private Methods() {}

  private static <Q extends Message, R extends Message> MethodDescriptor<Q, R> unary(
      String name, Q request, R response) {
    return MethodDescriptor.<Q, R>newBuilder()
        .setType(MethodDescriptor.MethodType.UNARY)
        .setFullMethodName(MethodDescriptor.generateFullMethodName(SERVICE, name))
        .setRequestMarshaller(ProtoUtils.marshaller(request))
        .setResponseMarshaller(ProtoUtils.marshaller(response))
        // Scoring a row again gives the same.
        .setIdempotent(true)
        .build();
  }
}
