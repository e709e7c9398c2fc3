package android.graphics;
public class ImageFormat {
    public static final int NV21 = 17;
    public static final int YUV_420_888 = 35;
    public static final int YV12 = 842094169;
}
