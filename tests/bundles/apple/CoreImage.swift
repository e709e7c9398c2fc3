// As CoreGraphics.swift. https://developer.apple.com/documentation/coreimage

@_exported import CoreVideo

public final class CIImage {
    public init(cvPixelBuffer: CVPixelBuffer) {}
}

public final class CIContext {
    public init() {}
    public func render(_ image: CIImage, to buffer: CVPixelBuffer, bounds: CGRect, colorSpace: CGColorSpace?) {}
}
