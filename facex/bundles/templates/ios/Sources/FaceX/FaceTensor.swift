// Values of an output as one array, however they lie in memory. It needs Foundation and no device.

import Foundation

public enum FaceTensor {
    /// How a value is stored. The raw values are those of `MLMultiArrayDataType`, whose cases not every system knows.
    public enum Kind: Int, Sendable {
        case float16 = 65552
        case float32 = 65568
        case double = 65600
        case int32 = 131104

        var bytes: Int {
            switch self {
            case .float16: return 2
            case .float32, .int32: return 4
            case .double: return 8
            }
        }
    }

    /// The values in row-major order.
    ///
    /// - Parameters:
    ///   - pointer: to the first value.
    ///   - strides: values to step over by dimension; rows may be padded.
    public static func values(_ pointer: UnsafeRawPointer, kind: Kind, shape: [Int], strides: [Int]) -> [Float] {
        let count = shape.reduce(1, *)
        var values: [Float] = []
        values.reserveCapacity(count)
        guard count > 0 else { return values }
        var index = [Int](repeating: 0, count: shape.count)
        var offset = 0
        for _ in 0..<count {
            values.append(value(pointer + offset * kind.bytes, kind))
            var axis = shape.count - 1
            while axis >= 0 {
                index[axis] += 1
                offset += strides[axis]
                if index[axis] < shape[axis] { break }
                offset -= shape[axis] * strides[axis]
                index[axis] = 0
                axis -= 1
            }
        }
        return values
    }

    /// A half-precision number, by its bits; `Float16` is missing on Macs with Intel processors.
    public static func half(_ bits: UInt16) -> Float {
        let sign: Float = bits & 0x8000 == 0 ? 1 : -1
        let exponent = Int(bits >> 10) & 0x1f
        let fraction = Float(bits & 0x3ff)
        switch exponent {
        case 0: return sign * fraction * 0x1p-24
        case 0x1f: return fraction == 0 ? sign * .infinity : .nan
        default: return sign * Float(sign: .plus, exponent: exponent - 15, significand: 1 + fraction * 0x1p-10)
        }
    }

    private static func value(_ pointer: UnsafeRawPointer, _ kind: Kind) -> Float {
        switch kind {
        case .float16: return half(pointer.loadUnaligned(as: UInt16.self))
        case .float32: return pointer.loadUnaligned(as: Float.self)
        case .double: return Float(pointer.loadUnaligned(as: Double.self))
        case .int32: return Float(pointer.loadUnaligned(as: Int32.self))
        }
    }
}
