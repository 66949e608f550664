package io.prinz.enricher.nussknacker

import cats.data.NonEmptyList
import io.prinz.enricher.v1.{Field, ScalarType, TensorType, Type}
import pl.touk.nussknacker.engine.api.typed.typing.{Typed, TypingResult, Unknown}

import java.time.{Instant, LocalDate, LocalDateTime, OffsetDateTime, ZonedDateTime}
import scala.jdk.CollectionConverters._

/** A model's types as the designer's. */
object FieldTypes {

  private val AnyInstant: TypingResult = Typed(
    NonEmptyList.of[TypingResult](
      Typed[LocalDateTime],
      Typed[Instant],
      Typed[ZonedDateTime],
      Typed[OffsetDateTime],
      Typed[LocalDate]
    )
  )

  /** What may be given to the model. Where the designer would refuse what the client takes, such as other instants or a
    * record without its optional fields, it is told less, and the client checks each event.
    *
    * Numbers are of no class of their own: the engine converts a value to the class of its field, and cuts off the
    * fraction of a decimal without a word. As it comes, the client takes it exactly or not at all.
    */
  def input(of: Type): TypingResult = of.getKindCase match {
    case Type.KindCase.SCALAR =>
      scalar(of.getScalar, AnyInstant) match {
        case number if number.canBeSubclassOf(Typed[Number]) && number != Unknown => Typed[Number]
        case other                                                              => other
      }
    case Type.KindCase.LIST   => list(input(of.getList.getItems))
    case Type.KindCase.MAP    => map(input(of.getMap.getValues))
    case Type.KindCase.RECORD =>
      val fields = of.getRecord.getFieldsList.asScala
      if (fields.forall(_.getRequired)) record(fields.toList, input) else map(Unknown)
    case Type.KindCase.TENSOR => tensor(of.getTensor, AnyInstant, Typed[Number])
    case _                    => Unknown
  }

  /** Says what is wrong with an expression of this type for an input, where that is sure forevery event. */
  def misfit(of: Type, expression: TypingResult): Option[String] = {
    val whole = of.getKindCase == Type.KindCase.SCALAR &&
      Set(ScalarType.SCALAR_TYPE_INTEGER, ScalarType.SCALAR_TYPE_LONG).contains(of.getScalar)
    val wanted = name(of)
    expression match {
      case Unknown => None
      case typ if whole && List(Typed[java.lang.Double], Typed[java.lang.Float]).contains(typ.withoutValue) =>
        Some(s"The expression is ${typ.withoutValue.display}, and the model takes $wanted: say how it is rounded")
      case _ => None
    }
  }

  /** Names a type in a word, as MLflow does. */
  def name(of: Type): String = of.getKindCase match {
    case Type.KindCase.SCALAR => of.getScalar.name.stripPrefix("SCALAR_TYPE_").toLowerCase(java.util.Locale.ROOT)
    case Type.KindCase.LIST   => s"array of ${name(of.getList.getItems)}"
    case Type.KindCase.MAP    => s"map of ${name(of.getMap.getValues)}"
    case Type.KindCase.RECORD => "object"
    case Type.KindCase.TENSOR if of.getTensor.getShapeCount > 1 => s"array of ${of.getTensor.getDtype}"
    case Type.KindCase.TENSOR => of.getTensor.getDtype
    case _                    => "any"
  }

  /** What the model gives. */
  def output(of: Type): TypingResult = of.getKindCase match {
    case Type.KindCase.SCALAR => scalar(of.getScalar, Typed[LocalDateTime])
    case Type.KindCase.LIST   => list(output(of.getList.getItems))
    case Type.KindCase.MAP    => map(output(of.getMap.getValues))
    case Type.KindCase.RECORD => record(of.getRecord.getFieldsList.asScala.toList, output)
    case Type.KindCase.TENSOR =>
      val dtype = of.getTensor.getDtype
      val number: TypingResult =
        if (dtype.matches("u?int(8|16)|int32")) Typed[java.lang.Integer]
        else if (dtype.contains("int")) Typed[java.lang.Long]
        else if (dtype == "float64") Typed[java.lang.Double]
        else Typed[java.lang.Float]
      tensor(of.getTensor, Typed[LocalDateTime], number)
    case _                    => Unknown
  }

  /** A record of fields, each of its own type. */
  def record(fields: List[Field], typed: Type => TypingResult): TypingResult =
    Typed.record(fields.map(field => field.getName -> typed(field.getType)))

  def list(items: TypingResult): TypingResult = Typed.genericTypeClass(classOf[java.util.List[_]], List(items))

  private def map(values: TypingResult): TypingResult =
    Typed.genericTypeClass(classOf[java.util.Map[_, _]], List(Typed[String], values))

  private def scalar(of: ScalarType, instant: TypingResult): TypingResult = of match {
    case ScalarType.SCALAR_TYPE_BOOLEAN  => Typed[java.lang.Boolean]
    case ScalarType.SCALAR_TYPE_INTEGER  => Typed[java.lang.Integer]
    case ScalarType.SCALAR_TYPE_LONG     => Typed[java.lang.Long]
    case ScalarType.SCALAR_TYPE_FLOAT    => Typed[java.lang.Float]
    case ScalarType.SCALAR_TYPE_DOUBLE   => Typed[java.lang.Double]
    case ScalarType.SCALAR_TYPE_STRING   => Typed[String]
    // The designer has no type of its own for bytes.
    case ScalarType.SCALAR_TYPE_BINARY   => Unknown
    case ScalarType.SCALAR_TYPE_DATETIME => instant
    case _                               => Unknown
  }

  private def tensor(of: TensorType, instant: TypingResult, number: TypingResult): TypingResult = {
    val element = of.getDtype match {
      case "bool"                                                          => Typed[java.lang.Boolean]
      case "str" | "object"                                                => Typed[String]
      case dtype if dtype.startsWith("datetime64")                         => instant
      case dtype if dtype.startsWith("float") || dtype.matches("u?int.*") => number
      case _                                                               => Unknown
    }
    // The first dimension is the rows, of which an event is one.
    (1 until of.getShapeCount).foldLeft(element: TypingResult)((inner, _) => list(inner))
  }

}
