// Every model on every kind of compute unit against every golden. Needs Core ML: a Mac, a simulator or a device.

#if canImport(CoreML)
import CoreML
import CryptoKit
import Foundation
import ImageIO
import XCTest

@testable import FaceX

final class GoldenTests: XCTestCase {
    private let units: [MLComputeUnits] = {
        var units: [MLComputeUnits] = [.all, .cpuAndGPU, .cpuOnly]
        if #available(iOS 16, macOS 13, *) { units.append(.cpuAndNeuralEngine) }
        return units
    }()

    func testModelsAreThoseDescribed() throws {
        for model in try FaceBundle.description().models {
            XCTAssertEqual(try sha256OfFolder(FaceBundle.url(model.file)), model.sha256, model.file)
        }
    }

    /// No colour management between the file and the model: otherwise what is compared would be another picture.
    func testPixelsOfGoldensArriveUnchanged() throws {
        let pixels = try Vectors.load().pixels
        let goldens = try FaceBundle.description().goldens
        XCTAssertEqual(pixels.map(\.file), goldens.photographs.map(\.file))
        for golden in pixels {
            let image = try pixelsOfPNG(Vectors.url(golden.file))
            XCTAssertEqual(image.height, goldens.height)
            XCTAssertEqual(image.width, goldens.width)
            var rgb = Data(capacity: 3 * image.height * image.width)
            for at in stride(from: 0, to: image.bgra.count, by: FacePixels.bytesPerPixel) {
                rgb.append(contentsOf: [image.bgra[at + 2], image.bgra[at + 1], image.bgra[at]])
            }
            let digest = SHA256.hash(data: rgb).map { String(format: "%02x", $0) }.joined()
            XCTAssertEqual(digest, golden.sha256, golden.file)
        }
    }

    func testGoldensOnEveryComputeUnit() throws {
        let description = try FaceBundle.description()
        for model in description.models {
            for unit in units {
                let detector: FaceDetector
                do {
                    detector = try FaceDetector(file: model.file, candidates: [unit])
                } catch {
                    XCTFail("\(model.file) on \(unit.name): \(error)")
                    continue
                }
                for golden in description.goldens.photographs {
                    let verdict = try detector.replay(golden, at: Vectors.url(golden.file))
                    XCTAssertTrue(
                        verdict.passed, "\(model.file) on \(unit.name), \(golden.file): \(verdict.complaints)"
                    )
                }
            }
        }
    }

    func testSwappedChannelsAreSeen() throws {
        let description = try FaceBundle.description()
        let detector = try FaceDetector()
        let failures = try description.goldens.photographs.filter { golden in
            let faces = try detector.detect(in: try image(of: golden, swapped: true))
            let verdict = FaceGeometry.compare(
                expected: golden.faces, found: faces, tolerances: detector.model.tolerances,
                scoreThreshold: description.scoreThreshold
            )
            return !verdict.passed
        }
        XCTAssertFalse(failures.isEmpty, "red and blue can be swapped without a golden seeing it")
    }

    /// A golden that lies turned in memory must give the faces of the upright one, mapped.
    func testOrientations() async throws {
        let description = try FaceBundle.description()
        let golden = try XCTUnwrap(description.goldens.photographs.first { !$0.faces.isEmpty })
        let detector = try await FaceDetector.load()
        let upright = try image(of: golden, swapped: false)
        for orientation in Orientation.allCases {
            let property = try XCTUnwrap(CGImagePropertyOrientation(rawValue: UInt32(orientation.rawValue)))
            let faces = try await detector.faces(in: turned(upright, orientation), orientation: property)
            let verdict = FaceGeometry.compare(
                expected: try detector.detect(in: upright), found: faces, tolerances: detector.model.tolerances,
                scoreThreshold: description.scoreThreshold
            )
            XCTAssertTrue(verdict.passed, "\(orientation): \(verdict.complaints)")
        }
    }

    // MARK: - Pictures

    private func image(of golden: Golden, swapped: Bool) throws -> CGImage {
        let image = try pixelsOfPNG(Vectors.url(golden.file))
        var bytes = image.bgra
        if swapped {
            for at in stride(from: 0, to: bytes.count, by: FacePixels.bytesPerPixel) { bytes.swapAt(at, at + 2) }
        }
        return try cgImage(bytes, height: image.height, width: image.width)
    }

    /// The picture as it would lie in memory for `orientation` to turn it upright.
    private func turned(_ image: CGImage, _ orientation: Orientation) throws -> CGImage {
        let data = try XCTUnwrap(image.dataProvider?.data) as Data
        let (height, width) = orientation.swapsAxes ? (image.width, image.height) : (image.height, image.width)
        let frame = Frame(width: width, height: height, orientation: orientation)
        var bytes = [UInt8](repeating: 255, count: height * width * FacePixels.bytesPerPixel)
        for y in 0..<image.height {
            for x in 0..<image.width {
                let point = frame.toBuffer(Float(x) + 0.5, Float(y) + 0.5)
                let to = (Int(point.y) * width + Int(point.x)) * FacePixels.bytesPerPixel
                let from = y * image.bytesPerRow + x * FacePixels.bytesPerPixel
                for channel in 0..<FacePixels.bytesPerPixel { bytes[to + channel] = data[from + channel] }
            }
        }
        return try cgImage(bytes, height: height, width: width)
    }

    private func cgImage(_ bgra: [UInt8], height: Int, width: Int) throws -> CGImage {
        let space = try XCTUnwrap(CGColorSpace(name: CGColorSpace.sRGB))
        let provider = try XCTUnwrap(CGDataProvider(data: Data(bgra) as CFData))
        let info = CGImageAlphaInfo.noneSkipFirst.rawValue | CGBitmapInfo.byteOrder32Little.rawValue
        return try XCTUnwrap(
            CGImage(
                width: width, height: height, bitsPerComponent: 8, bitsPerPixel: 32,
                bytesPerRow: width * FacePixels.bytesPerPixel, space: space, bitmapInfo: CGBitmapInfo(rawValue: info),
                provider: provider, decode: nil, shouldInterpolate: false, intent: .defaultIntent
            )
        )
    }
}
#endif
