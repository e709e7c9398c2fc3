// The detector: a pixel buffer or an image in, faces out. It tries the golden that the package brings along on one kind
// of compute unit after another, and takes the first on which the model finds the faces that it must find.

#if canImport(CoreML)
import CoreGraphics
import CoreImage
import CoreML
import CoreVideo
import CryptoKit
import Foundation
import ImageIO

/// Finds faces. Load one, and keep it; it may be used from several threads, and runs one picture at a time.
///
/// Faces are in pixels of the upright picture, best score first and not clamped to it; `Frame.toBuffer` maps them to
/// the buffer as it lies in memory.
public final class FaceDetector: @unchecked Sendable {
    /// Compute units to try, fastest first.
    public static let candidates: [MLComputeUnits] = [.all, .cpuAndGPU, .cpuOnly]

    /// How compute units did on the golden: `verdict`, or the `failure` that kept them from giving one.
    public struct Attempt: CustomStringConvertible {
        public let computeUnits: MLComputeUnits
        public let verdict: Verdict?
        public let failure: Error?

        public var passed: Bool { verdict.map { $0.passed && $0.pairs > 0 } ?? false }

        public var description: String {
            if let failure { return "\(computeUnits.name): \(failure)" }
            return "\(computeUnits.name): \(passed ? "passed" : verdict?.complaints.joined(separator: ", ") ?? "")"
        }
    }

    /// What the package says of itself.
    public let description: Description
    /// The model that runs.
    public let model: Model
    /// What was tried, in order; the last one runs.
    public let attempts: [Attempt]

    private let runner: Runner
    private let queue = DispatchQueue(label: "FaceX.FaceDetector", qos: .userInitiated)

    /// Load a model of the package and choose what runs it; `load` does so off the caller's thread.
    ///
    /// The model is compiled where that was not done before. Compute units must find the faces of one golden, within
    /// the model's tolerances; where they throw or find others, the next are tried. Takes up to seconds.
    ///
    /// - Parameters:
    ///   - file: name of a model in facex.json; by default the first one.
    ///   - candidates: compute units to try, in this order.
    /// - Throws: `FaceXError` where the package is not as it was written, or the faces are found on none of them.
    public init(file: String? = nil, candidates: [MLComputeUnits] = FaceDetector.candidates) throws {
        let description = try FaceBundle.description()
        guard let model = description.models.first(where: { file == nil || $0.file == file }) else {
            throw FaceXError("facex.json names no model \(file ?? "")")
        }
        guard let golden = description.choosing else { throw FaceXError("facex.json names no golden") }
        let url = try FaceBundle.url(golden.file)
        let compiled = try CompiledModel(model)
        var attempts: [Attempt] = []
        var chosen: Runner?
        for units in candidates {
            do {
                let runner = try Runner(compiled.url, units, description, model)
                let verdict = try runner.replay(golden, at: url)
                attempts.append(Attempt(computeUnits: units, verdict: verdict, failure: nil))
                if attempts.last?.passed == true {
                    chosen = runner
                    break
                }
            } catch {
                attempts.append(Attempt(computeUnits: units, verdict: nil, failure: error))
            }
        }
        guard let chosen else {
            // it may have been damaged in the cache: the next one compiles it anew
            compiled.forget()
            let told = attempts.map(\.description).joined(separator: "; ")
            throw FaceXError("\(model.file) does not find the faces of \(golden.file) here. \(told)")
        }
        self.description = description
        self.model = model
        self.attempts = attempts
        runner = chosen
    }

    /// The same, off the caller's thread.
    public static func load(
        file: String? = nil, candidates: [MLComputeUnits] = FaceDetector.candidates
    ) async throws -> FaceDetector {
        try await withCheckedThrowingContinuation { continuation in
            DispatchQueue.global(qos: .userInitiated).async {
                continuation.resume(with: Result { try FaceDetector(file: file, candidates: candidates) })
            }
        }
    }

    /// What runs the model.
    public var computeUnits: MLComputeUnits { runner.units }

    /// Faces of a camera's picture. Waits for the result: not for the main thread.
    ///
    /// - Parameters:
    ///   - pixelBuffer: of any format that Core Image reads; 32BGRA is read as it is.
    ///   - orientation: what must be done to see it upright.
    public func detect(in pixelBuffer: CVPixelBuffer, orientation: CGImagePropertyOrientation = .up) throws -> [Face] {
        try runner.detect(in: pixelBuffer, orientation: try Orientation(orientation))
    }

    /// Faces of an image, whose colours are taken to sRGB. Waits for the result: not for the main thread.
    public func detect(in image: CGImage, orientation: CGImagePropertyOrientation = .up) throws -> [Face] {
        try runner.detect(in: image, orientation: try Orientation(orientation))
    }

    /// `detect`, off the caller's thread and in the order of the calls.
    public func faces(
        in pixelBuffer: CVPixelBuffer, orientation: CGImagePropertyOrientation = .up
    ) async throws -> [Face] {
        try await enqueued { try self.detect(in: pixelBuffer, orientation: orientation) }
    }

    /// `detect`, off the caller's thread and in the order of the calls.
    public func faces(in image: CGImage, orientation: CGImagePropertyOrientation = .up) async throws -> [Face] {
        try await enqueued { try self.detect(in: image, orientation: orientation) }
    }

    /// Holds what is found in a golden's own pixels against its faces.
    func replay(_ golden: Golden, at url: URL) throws -> Verdict {
        try runner.replay(golden, at: url)
    }

    private func enqueued(_ work: @escaping () throws -> [Face]) async throws -> [Face] {
        try await withCheckedThrowingContinuation { continuation in
            queue.async { continuation.resume(with: Result { try work() }) }
        }
    }
}

extension Face {
    /// The box, in the frame of `box`.
    public var rect: CGRect {
        CGRect(
            x: CGFloat(box[0]), y: CGFloat(box[1]), width: CGFloat(box[2] - box[0]), height: CGFloat(box[3] - box[1])
        )
    }

    /// The landmarks, in the frame of `landmarks`.
    public var points: [CGPoint] {
        stride(from: 0, to: landmarks.count - 1, by: 2).map {
            CGPoint(x: CGFloat(landmarks[$0]), y: CGFloat(landmarks[$0 + 1]))
        }
    }
}

extension Orientation {
    /// Both are numbered as EXIF does.
    public init(_ orientation: CGImagePropertyOrientation) throws {
        guard let same = Orientation(rawValue: Int(orientation.rawValue)) else {
            throw FaceXError("orientation \(orientation.rawValue) is not one of EXIF's eight")
        }
        self = same
    }
}

extension MLComputeUnits {
    /// As it is written in Swift.
    public var name: String {
        // by value, because a case may be younger than the oldest system
        switch rawValue {
        case 0: return "cpuOnly"
        case 1: return "cpuAndGPU"
        case 2: return "all"
        case 3: return "cpuAndNeuralEngine"
        default: return "compute units \(rawValue)"
        }
    }
}

// MARK: - The model on one kind of compute unit

private final class Runner {
    let units: MLComputeUnits

    private let description: Description
    private let model: Model
    private let head: Head
    private let network: MLModel
    private let pixels: PixelReader
    private let lock = NSLock()

    init(_ url: URL, _ units: MLComputeUnits, _ description: Description, _ model: Model) throws {
        let configuration = MLModelConfiguration()
        configuration.computeUnits = units
        self.units = units
        self.description = description
        self.model = model
        head = try Head(description, model)
        network = try MLModel(contentsOf: url, configuration: configuration)
        pixels = PixelReader(description, model)
    }

    func detect(in pixelBuffer: CVPixelBuffer, orientation: Orientation) throws -> [Face] {
        let (input, letterbox) = try pixels.input(of: pixelBuffer, orientation: orientation)
        return try run(input).map { FaceGeometry.toUpright($0, letterbox) }
    }

    func detect(in image: CGImage, orientation: Orientation) throws -> [Face] {
        let (input, letterbox) = try pixels.input(of: image, orientation: orientation)
        return try run(input).map { FaceGeometry.toUpright($0, letterbox) }
    }

    func replay(_ golden: Golden, at url: URL) throws -> Verdict {
        FaceGeometry.compare(
            expected: golden.faces, found: try run(try pixels.input(ofGolden: url)), tolerances: model.tolerances,
            scoreThreshold: description.scoreThreshold
        )
    }

    /// The faces in an input, in its pixels.
    private func run(_ input: CVPixelBuffer) throws -> [Face] {
        try autoreleasepool {
            let features = try MLDictionaryFeatureProvider(dictionary: ["image": MLFeatureValue(pixelBuffer: input)])
            lock.lock()
            defer { lock.unlock() }
            let outputs = try network.prediction(from: features)
            return try head.faces(
                Dictionary(uniqueKeysWithValues: try head.names.map { ($0, try values(of: $0, in: outputs)) })
            )
        }
    }

    private func values(of name: String, in outputs: MLFeatureProvider) throws -> [Float] {
        guard let array = outputs.featureValue(for: name)?.multiArrayValue else {
            throw FaceXError("\(model.file): gave no output \(name)")
        }
        guard let kind = FaceTensor.Kind(rawValue: array.dataType.rawValue) else {
            throw FaceXError("\(model.file): output \(name) is of type \(array.dataType.rawValue)")
        }
        return withExtendedLifetime(array) {
            FaceTensor.values(
                UnsafeRawPointer(array.dataPointer), kind: kind, shape: array.shape.map { $0.intValue },
                strides: array.strides.map { $0.intValue }
            )
        }
    }
}

// MARK: - Pixels

/// Buffers and images to inputs.
private final class PixelReader {
    private let height: Int
    private let width: Int
    private let paddingRGB: [Int]
    private let context = CIContext()

    init(_ description: Description, _ model: Model) {
        height = model.height
        width = model.width
        paddingRGB = description.paddingRGB
    }

    func input(of source: CVPixelBuffer, orientation: Orientation) throws -> (CVPixelBuffer, Letterbox) {
        let (sourceHeight, sourceWidth) = (CVPixelBufferGetHeight(source), CVPixelBufferGetWidth(source))
        var bgra = source
        if CVPixelBufferGetPixelFormatType(source) != kCVPixelFormatType_32BGRA {
            // Core Image knows the matrix and the range of every YUV format
            bgra = try buffer(height: sourceHeight, width: sourceWidth)
            context.render(
                CIImage(cvPixelBuffer: source), to: bgra,
                bounds: CGRect(x: 0, y: 0, width: sourceWidth, height: sourceHeight),
                colorSpace: CGColorSpace(name: CGColorSpace.sRGB)
            )
        }
        return try locked(bgra, .readOnly) { bytes, bytesPerRow in
            let frame = Frame(width: sourceWidth, height: sourceHeight, orientation: orientation)
            return try letterboxed(UnsafeRawBufferPointer(bytes), bytesPerRow: bytesPerRow, frame: frame)
        }
    }

    func input(of image: CGImage, orientation: Orientation) throws -> (CVPixelBuffer, Letterbox) {
        guard let space = CGColorSpace(name: CGColorSpace.sRGB) else { throw FaceXError("there is no sRGB here") }
        let pixels = try bgra(image, in: space)
        let frame = Frame(width: image.width, height: image.height, orientation: orientation)
        return try pixels.withUnsafeBytes { bytes in
            try letterboxed(bytes, bytesPerRow: image.width * FacePixels.bytesPerPixel, frame: frame)
        }
    }

    /// A golden's very pixels.
    func input(ofGolden url: URL) throws -> CVPixelBuffer {
        let image = try pixelsOfPNG(url)
        guard image.height == height, image.width == width else {
            throw FaceXError(
                "\(url.lastPathComponent) is \(image.height)x\(image.width), the model takes \(height)x\(width)"
            )
        }
        let frame = Frame(width: width, height: height)
        return try image.bgra.withUnsafeBytes { bytes in
            try letterboxed(bytes, bytesPerRow: width * FacePixels.bytesPerPixel, frame: frame).0
        }
    }

    private func letterboxed(
        _ bytes: UnsafeRawBufferPointer, bytesPerRow: Int, frame: Frame
    ) throws -> (CVPixelBuffer, Letterbox) {
        let letterbox = FaceGeometry.letterbox(
            uprightWidth: frame.uprightWidth, uprightHeight: frame.uprightHeight, inputWidth: width, inputHeight: height
        )
        let input = try buffer(height: height, width: width)
        try locked(input, []) { target, targetBytesPerRow in
            FacePixels.write(
                bytes, bytesPerRow: bytesPerRow, frame: frame, letterbox: letterbox, paddingRGB: paddingRGB,
                into: target, destinationBytesPerRow: targetBytesPerRow, inputWidth: width, inputHeight: height
            )
        }
        return (input, letterbox)
    }

    private func buffer(height: Int, width: Int) throws -> CVPixelBuffer {
        let attributes: [String: Any] = [kCVPixelBufferIOSurfacePropertiesKey as String: [String: Any]()]
        var made: CVPixelBuffer?
        let status = CVPixelBufferCreate(
            kCFAllocatorDefault, width, height, kCVPixelFormatType_32BGRA, attributes as CFDictionary, &made
        )
        guard status == kCVReturnSuccess, let made else {
            throw FaceXError("no pixel buffer of \(height)x\(width): Core Video says \(status)")
        }
        return made
    }

    /// The bytes of a buffer, and how many a row takes, while it is locked.
    private func locked<R>(
        _ buffer: CVPixelBuffer, _ flags: CVPixelBufferLockFlags,
        _ body: (UnsafeMutableRawBufferPointer, Int) throws -> R
    ) throws -> R {
        let status = CVPixelBufferLockBaseAddress(buffer, flags)
        guard status == kCVReturnSuccess else { throw FaceXError("a pixel buffer cannot be locked: \(status)") }
        defer { CVPixelBufferUnlockBaseAddress(buffer, flags) }
        guard let address = CVPixelBufferGetBaseAddress(buffer) else {
            throw FaceXError("a pixel buffer has no address")
        }
        let bytesPerRow = CVPixelBufferGetBytesPerRow(buffer)
        let count = bytesPerRow * CVPixelBufferGetHeight(buffer)
        return try body(UnsafeMutableRawBufferPointer(start: address, count: count), bytesPerRow)
    }
}

/// An image's pixels over white, BGRA, in a colour space.
private func bgra(_ image: CGImage, in space: CGColorSpace) throws -> [UInt8] {
    let (width, height) = (image.width, image.height)
    var pixels = [UInt8](repeating: 255, count: width * height * FacePixels.bytesPerPixel)
    try pixels.withUnsafeMutableBytes { bytes in
        guard
            let context = CGContext(
                data: bytes.baseAddress, width: width, height: height, bitsPerComponent: 8,
                bytesPerRow: width * FacePixels.bytesPerPixel, space: space,
                bitmapInfo: CGImageAlphaInfo.noneSkipFirst.rawValue | CGBitmapInfo.byteOrder32Little.rawValue
            )
        else { throw FaceXError("no bitmap of \(height)x\(width)") }
        context.interpolationQuality = .none
        context.draw(image, in: CGRect(x: 0, y: 0, width: width, height: height))
    }
    return pixels
}

/// The pixels of a PNG, BGRA, just as they are stored: drawn into the image's own colour space, no colour moves.
func pixelsOfPNG(_ url: URL) throws -> (bgra: [UInt8], height: Int, width: Int) {
    guard
        let source = CGImageSourceCreateWithURL(url as CFURL, nil),
        let image = CGImageSourceCreateImageAtIndex(source, 0, nil)
    else { throw FaceXError("\(url.lastPathComponent) cannot be read") }
    var space = CGColorSpaceCreateDeviceRGB()
    if let own = image.colorSpace, own.model == .rgb { space = own }
    return (try bgra(image, in: space), image.height, image.width)
}

// MARK: - The compiled model

/// A model, compiled by this system and kept among the app's caches.
private struct CompiledModel {
    let url: URL

    init(_ model: Model) throws {
        let package = try FaceBundle.url(model.file)
        let sha256 = try sha256OfFolder(package)
        guard sha256 == model.sha256 else {
            throw FaceXError(
                "\(model.file) is not the model that facex.json describes: add the package as it was written"
            )
        }
        let files = FileManager.default
        let caches = try files.url(for: .cachesDirectory, in: .userDomainMask, appropriateFor: nil, create: true)
        let folder = caches.appendingPathComponent("FaceX", isDirectory: true)
        try files.createDirectory(at: folder, withIntermediateDirectories: true)
        // a compiled model is of the system that compiled it
        let system = ProcessInfo.processInfo.operatingSystemVersion
        let version = "\(system.majorVersion).\(system.minorVersion).\(system.patchVersion)"
        url = folder.appendingPathComponent("\(sha256)-\(version).mlmodelc", isDirectory: true)
        if files.fileExists(atPath: url.path) { return }
        let compiled = try MLModel.compileModel(at: package)
        do {
            try files.moveItem(at: compiled, to: url)
        } catch {
            // another thread may have been faster; its model is as good
            guard files.fileExists(atPath: url.path) else { throw error }
        }
    }

    func forget() {
        try? FileManager.default.removeItem(at: url)
    }
}

/// SHA-256 of a folder's relative paths and contents in sorted order, as facex.json has it.
func sha256OfFolder(_ folder: URL) throws -> String {
    let root = folder.resolvingSymlinksInPath().path + "/"
    let keys: [URLResourceKey] = [.isRegularFileKey]
    guard
        let found = FileManager.default.enumerator(
            at: folder.resolvingSymlinksInPath(), includingPropertiesForKeys: keys, options: [.skipsHiddenFiles]
        )
    else { throw FaceXError("\(folder.lastPathComponent) cannot be read") }
    var files: [(name: String, url: URL)] = []
    for case let url as URL in found where try url.resourceValues(forKeys: Set(keys)).isRegularFile == true {
        files.append((String(url.resolvingSymlinksInPath().path.dropFirst(root.count)), url))
    }
    var digest = SHA256()
    for file in files.sorted(by: { $0.name < $1.name }) {
        digest.update(data: Data(file.name.utf8) + [0])
        digest.update(data: Data(SHA256.hash(data: try Data(contentsOf: file.url))))
    }
    return digest.finalize().map { String(format: "%02x", $0) }.joined()
}
#endif
