// As CoreGraphics.swift. https://developer.apple.com/documentation/coreml

@_exported import CoreVideo

public func autoreleasepool<R>(invoking body: () throws -> R) rethrows -> R { try body() }

public enum MLComputeUnits: Int, Sendable { case cpuOnly, cpuAndGPU, all, cpuAndNeuralEngine }

public final class MLModelConfiguration {
    public init() {}
    public var computeUnits: MLComputeUnits = .all
}

public enum MLMultiArrayDataType: Int { case double = 65600, float32 = 65568, float16 = 65552, int32 = 131104 }

public final class MLMultiArray {
    public var dataType: MLMultiArrayDataType { fatalError() }
    public var dataPointer: UnsafeMutableRawPointer { fatalError() }
    public var shape: [NSNumber] { fatalError() }
    public var strides: [NSNumber] { fatalError() }
}

public final class MLFeatureValue {
    public convenience init(pixelBuffer value: CVPixelBuffer) { self.init() }
    public var multiArrayValue: MLMultiArray? { nil }
}

public protocol MLFeatureProvider {
    var featureNames: Set<String> { get }
    func featureValue(for featureName: String) -> MLFeatureValue?
}

public final class MLDictionaryFeatureProvider: MLFeatureProvider {
    public init(dictionary: [String: Any]) throws {}
    public var featureNames: Set<String> { [] }
    public func featureValue(for featureName: String) -> MLFeatureValue? { nil }
}

public final class MLModel {
    public init(contentsOf url: URL, configuration: MLModelConfiguration) throws {}
    public class func compileModel(at modelURL: URL) throws -> URL { modelURL }
    public class func compileModel(at modelURL: URL) async throws -> URL { modelURL }
    public func prediction(from input: MLFeatureProvider) throws -> MLFeatureProvider { input }
    public func prediction(from input: MLFeatureProvider) async throws -> MLFeatureProvider { input }
}
