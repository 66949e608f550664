package io.prinz.enricher.values;

import io.prinz.enricher.v1.ListType;
import io.prinz.enricher.v1.Param;
import io.prinz.enricher.v1.Signature;
import io.prinz.enricher.v1.Type;
import io.prinz.enricher.v1.Value;
import java.util.HashMap;
import java.util.Map;

/** The parameters of a prediction. */
public final class Params {
  private Params() {}

  /**
   * Checks parameters against a signature.
   *
   * @param signature of a model
   * @param params by name; those left out have their defaults. A null is refused, unless it is the default
   * @return them as they travel
   * @throws InvalidRow with each of their faults
   */
  public static Map<String, Value> admit(Signature signature, Map<String, ?> params) throws InvalidRow {
    Faults faults = new Faults();
    Map<String, Value> admitted = new HashMap<>();
    Map<String, Param> known = new HashMap<>();
    signature.getParamsList().forEach(param -> known.put(param.getName(), param));
    for (Map.Entry<String, ?> one : params.entrySet()) {
      Path path = Path.field(one.getKey());
      Param param = known.get(one.getKey());
      if (param == null) {
        faults.add(path, "is not a parameter of this model");
        continue;
      }
      if (one.getValue() == null && param.getDefaultValue().hasNullValue()) {
        admitted.put(one.getKey(), param.getDefaultValue());
        continue;
      }
      Type type = param.getType();
      if (param.getShapeCount() > 0) {
        type = Type.newBuilder().setList(ListType.newBuilder().setItems(type)).build();
      }
      admitted.put(one.getKey(), new Nested(faults, false).admit(one.getValue(), type, true, path));
    }
    faults.throwAny();
    return admitted;
  }
}
