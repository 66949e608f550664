package io.prinz.enricher.nussknacker

import com.typesafe.config.ConfigFactory
import io.prinz.enricher.v1.{Field, ScalarType, Signature, Type}
import io.prinz.enricher.values.{Inputs, Outputs}

import java.util.Collections
import scala.jdk.CollectionConverters._

/** Outputs that no model gave, for tests of scenarios. */
object Mocks {

  /** Makes outputs of the types of a signature.
    *
    * @param configured
    *   values by output, as JSON; those left out are nothing of their type: zero, no text, false, an empty list
    * @throws io.prinz.enricher.values.InvalidRow
    *   a configured value does not fit its output
    */
  def outputs(signature: Signature, configured: Option[String]): java.util.Map[String, Object] = {
    val fields = signature.getOutputsList.asScala.toList
    val chosen = configured.map(ConfigFactory.parseString(_).root().unwrapped().asScala.toMap).getOrElse(Map.empty)
    val values = fields.map(field => field.getName -> nothing(field.getType)).toMap[String, AnyRef] ++ chosen
    // As inputs they are checked, and as outputs read in the classes that the form promised.
    val both   = Signature.newBuilder().addAllInputs(fields.asJava).addAllOutputs(fields.asJava).build()
    val inputs = new Inputs(both)
    val row    = inputs.admit(values.asJava)
    val batch  = inputs.encode(row.shape, Collections.singletonList(row))
    new Outputs(both, Collections.emptyList[String]()).read(batch, 1).get(0)
  }

  private def nothing(of: Type): AnyRef = of.getKindCase match {
    case Type.KindCase.SCALAR =>
      of.getScalar match {
        case ScalarType.SCALAR_TYPE_BOOLEAN  => java.lang.Boolean.FALSE
        case ScalarType.SCALAR_TYPE_STRING   => ""
        case ScalarType.SCALAR_TYPE_BINARY   => Array.emptyByteArray
        case ScalarType.SCALAR_TYPE_DATETIME => java.time.LocalDate.EPOCH
        case _                               => Integer.valueOf(0)
      }
    case Type.KindCase.LIST   => java.util.List.of[AnyRef]()
    case Type.KindCase.MAP    => java.util.Map.of[String, AnyRef]()
    case Type.KindCase.RECORD =>
      of.getRecord.getFieldsList.asScala.map((field: Field) => field.getName -> nothing(field.getType)).toMap.asJava
    case Type.KindCase.TENSOR =>
      array(of.getTensor.getDtype, of.getTensor.getShapeList.asScala.toList.drop(1).map(_.toLong))
    case _                    => null
  }

  private def array(dtype: String, shape: List[Long]): AnyRef = shape match {
    case Nil if dtype == "bool"                     => java.lang.Boolean.FALSE
    case Nil if dtype == "str" || dtype == "object" => ""
    case Nil if dtype == "bytes"                    => Array.emptyByteArray
    case Nil if dtype.startsWith("datetime64")      => java.time.LocalDate.EPOCH
    case Nil                                        => Integer.valueOf(0)
    case size :: inner => Collections.nCopies(math.max(0L, size).toInt, array(dtype, inner))
  }

}
