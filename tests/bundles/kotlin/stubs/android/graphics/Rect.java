package android.graphics;
public final class Rect {
    public int left;
    public int top;
    public int right;
    public int bottom;

    public final native int width();

    public final native int height();
}
