package android.graphics;

import java.io.InputStream;
public class BitmapFactory {
    public static class Options {
        public boolean inScaled;
    }

    public static native Bitmap decodeStream(InputStream is, Rect outPadding, Options opts);
}
