// Pixels of a picture as it lies in memory to the letterboxed input: turned upright, resized, padded.
//
// The resize is the bilinear one of Pillow, by which the reference saw its photographs: a triangle as wide as the step
// where it shrinks, so that nothing is skipped, in two passes of 8-bit results, the upright picture's rows first.
// The input is the reference's byte for byte, whatever the orientation. It needs Foundation and no device.

import Foundation

public enum FacePixels {
    /// Bytes of a pixel: blue, green, red, and one that is not read.
    public static let bytesPerPixel = 4

    /// Fractional bits of the weights of a resize.
    private static let weightBits = 22

    /// Write a picture as the input of a model.
    ///
    /// - Parameters:
    ///   - source: BGRA, rows of `bytesPerRow` bytes.
    ///   - frame: how it lies there.
    ///   - letterbox: of `FaceGeometry.letterbox` for that frame.
    ///   - paddingRGB: colour of the rest.
    ///   - destination: BGRA, `inputHeight` rows of `destinationBytesPerRow` bytes; written whole, alpha 255.
    public static func write(
        _ source: UnsafeRawBufferPointer, bytesPerRow: Int, frame: Frame, letterbox: Letterbox, paddingRGB: [Int],
        into destination: UnsafeMutableRawBufferPointer, destinationBytesPerRow: Int, inputWidth: Int, inputHeight: Int
    ) {
        let (width, height, orientation) = (frame.width, frame.height, frame.orientation)
        let turned = Frame(
            width: letterbox.contentWidth, height: letterbox.contentHeight, orientation: orientation
        )
        // the axes of the buffer once more: turning a size is its own inverse
        let content = (height: turned.uprightHeight, width: turned.uprightWidth)
        let plan = Axes(orientation)
        var pixels = Picture(source, height: height, width: width, bytesPerRow: bytesPerRow)
        // the upright rows first: rounding between the passes is not symmetric
        let passes: [Pass] = orientation.swapsAxes ? [.columns, .rows] : [.rows, .columns]
        for pass in passes {
            switch pass {
            case .rows where content.width != width:
                pixels = pixels.resizedRows(Weights(from: width, to: content.width, mirrored: plan.mirrorsX))
            case .columns where content.height != height:
                pixels = pixels.resizedColumns(Weights(from: height, to: content.height, mirrored: plan.mirrorsY))
            default:
                break
            }
        }
        let padding = [UInt8(paddingRGB[2]), UInt8(paddingRGB[1]), UInt8(paddingRGB[0])]
        for y in 0..<inputHeight {
            for x in 0..<inputWidth {
                let at = y * destinationBytesPerRow + x * bytesPerPixel
                destination[at + 3] = 255
                guard y < letterbox.contentHeight, x < letterbox.contentWidth else {
                    for channel in 0..<3 { destination[at + channel] = padding[channel] }
                    continue
                }
                let stored = plan.stored(x, y, content)
                let from = (stored.y * pixels.width + stored.x) * bytesPerPixel
                for channel in 0..<3 { destination[at + channel] = pixels.bytes[from + channel] }
            }
        }
    }

    private enum Pass { case rows, columns }

    /// Where an upright pixel is stored.
    private struct Axes {
        let swaps: Bool
        /// Whether the stored x runs against the upright axis that it becomes.
        let mirrorsX: Bool
        let mirrorsY: Bool

        init(_ orientation: Orientation) {
            swaps = orientation.swapsAxes
            switch orientation {
            case .up, .leftMirrored: (mirrorsX, mirrorsY) = (false, false)
            case .upMirrored, .left: (mirrorsX, mirrorsY) = (true, false)
            case .down, .rightMirrored: (mirrorsX, mirrorsY) = (true, true)
            case .downMirrored, .right: (mirrorsX, mirrorsY) = (false, true)
            }
        }

        func stored(_ x: Int, _ y: Int, _ size: (height: Int, width: Int)) -> (x: Int, y: Int) {
            let (across, down) = swaps ? (y, x) : (x, y)
            return (mirrorsX ? size.width - 1 - across : across, mirrorsY ? size.height - 1 - down : down)
        }
    }

    /// For every resized pixel of an axis, which pixels it is the weighted sum of.
    private struct Weights {
        let count: Int
        /// First pixel of each, how many follow, and where their weights begin.
        var first: [Int] = []
        var taps: [Int] = []
        var begin: [Int] = []
        var values: [Int32] = []

        init(from: Int, to: Int, mirrored: Bool) {
            count = to
            let step = Double(from) / Double(to)
            let support = max(step, 1)
            for i in 0..<to {
                // computed for the upright axis, so that a mirrored one gives the very same sums
                let target = mirrored ? to - 1 - i : i
                let centre = (Double(target) + 0.5) * step
                let low = max(0, Int(centre - support + 0.5))
                let high = min(from, Int(centre + support + 0.5))
                let shares = (low..<high).map { max(0, 1 - abs((Double($0) - centre + 0.5) / support)) }
                let total = shares.reduce(0, +)
                let fixed = shares.map { Int32(0.5 + $0 / total * Double(1 << weightBits)) }
                first.append(mirrored ? from - high : low)
                taps.append(fixed.count)
                begin.append(values.count)
                values += mirrored ? fixed.reversed() : fixed
            }
        }

        /// Write the weighted sum that is the i-th resized pixel; positions and the step are in bytes.
        ///
        /// `values` are those of the weights, without the checks of an array.
        @inline(__always)
        func sum(
            _ i: Int, _ values: UnsafeBufferPointer<Int32>, of source: UnsafeBufferPointer<UInt8>, from: Int, step: Int,
            into target: UnsafeMutableBufferPointer<UInt8>, at: Int
        ) {
            // half a unit, so that the shift rounds; 255 times all weights is below 2^31
            let half = Int32(1) << (weightBits - 1)
            var (blue, green, red) = (half, half, half)
            var position = from
            for tap in begin[i]..<begin[i] + taps[i] {
                blue &+= Int32(source[position]) &* values[tap]
                green &+= Int32(source[position + 1]) &* values[tap]
                red &+= Int32(source[position + 2]) &* values[tap]
                position += step
            }
            target[at] = UInt8(clamping: blue >> weightBits)
            target[at + 1] = UInt8(clamping: green >> weightBits)
            target[at + 2] = UInt8(clamping: red >> weightBits)
        }
    }

    /// BGRA without gaps between rows.
    private struct Picture {
        let height: Int
        let width: Int
        var bytes: [UInt8]

        init(height: Int, width: Int) {
            self.height = height
            self.width = width
            bytes = [UInt8](repeating: 0, count: height * width * bytesPerPixel)
        }

        init(_ source: UnsafeRawBufferPointer, height: Int, width: Int, bytesPerRow: Int) {
            self.height = height
            self.width = width
            bytes = []
            bytes.reserveCapacity(height * width * bytesPerPixel)
            for y in 0..<height {
                bytes += source[y * bytesPerRow..<y * bytesPerRow + width * bytesPerPixel]
            }
        }

        private func read(
            _ weights: Weights, _ body: (UnsafeBufferPointer<UInt8>, UnsafeBufferPointer<Int32>) -> Void
        ) {
            bytes.withUnsafeBufferPointer { source in weights.values.withUnsafeBufferPointer { body(source, $0) } }
        }

        func resizedRows(_ weights: Weights) -> Picture {
            var resized = Picture(height: height, width: weights.count)
            resized.bytes.withUnsafeMutableBufferPointer { target in
                read(weights) { source, values in
                    for y in 0..<height {
                        for x in 0..<weights.count {
                            let from = (y * width + weights.first[x]) * bytesPerPixel
                            let to = (y * weights.count + x) * bytesPerPixel
                            weights.sum(x, values, of: source, from: from, step: bytesPerPixel, into: target, at: to)
                        }
                    }
                }
            }
            return resized
        }

        func resizedColumns(_ weights: Weights) -> Picture {
            var resized = Picture(height: weights.count, width: width)
            resized.bytes.withUnsafeMutableBufferPointer { target in
                read(weights) { source, values in
                    let step = width * bytesPerPixel
                    for y in 0..<weights.count {
                        for x in 0..<width {
                            let from = weights.first[y] * step + x * bytesPerPixel
                            let to = y * step + x * bytesPerPixel
                            weights.sum(y, values, of: source, from: from, step: step, into: target, at: to)
                        }
                    }
                }
            }
            return resized
        }
    }
}
