import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Arrays;

/**
 * The latent of one PNG by java.net.http: as JSON, then the model's fingerprint. Java 17 or newer,
 * no packages. The JDK reads no JSON, so the request accepts npy: a short header, then the numbers.
 *
 * <pre>java examples/cross_language/Encode.java examples/noisy.png http://127.0.0.1:3000</pre>
 */
public final class Encode {
    private static final int MAGIC = 8; // bytes before the header's length: "\x93NUMPY", version 1.0

    public static void main(String[] arguments) throws InterruptedException {
        String url = arguments.length > 1 ? arguments[1] : "http://127.0.0.1:3000";
        try {
            HttpRequest request = HttpRequest.newBuilder(URI.create(url + "/encode"))
                    .header("Content-Type", "image/png")
                    .header("Accept", "application/x-npy")
                    .timeout(Duration.ofSeconds(60))
                    .POST(HttpRequest.BodyPublishers.ofFile(Path.of(arguments[0])))
                    .build();
            // The service speaks HTTP/1.1; otherwise Java asks for HTTP/2 first.
            HttpResponse<byte[]> response = HttpClient.newBuilder()
                    .version(HttpClient.Version.HTTP_1_1)
                    .build()
                    .send(request, HttpResponse.BodyHandlers.ofByteArray());
            if (response.statusCode() != 200) {
                String problem = new String(response.body(), StandardCharsets.UTF_8);
                throw new IOException(response.statusCode() + ": " + problem);
            }
            String latent = Arrays.toString(floats(response.body())).replace(" ", "");
            System.out.println("{\"latents\":[" + latent + "]}");
            System.out.println(response.headers().firstValue("X-Model-Fingerprint").orElseThrow());
        } catch (IOException exception) {
            System.err.println("encode: " + exception);
            System.exit(1);
        }
    }

    /** The numbers of a little-endian float32 npy file of format 1.0, in order. */
    private static float[] floats(byte[] npy) {
        ByteBuffer buffer = ByteBuffer.wrap(npy).order(ByteOrder.LITTLE_ENDIAN);
        int header = Short.toUnsignedInt(buffer.getShort(MAGIC));
        buffer.position(MAGIC + Short.BYTES + header);
        float[] numbers = new float[buffer.remaining() / Float.BYTES];
        buffer.asFloatBuffer().get(numbers);
        return numbers;
    }
}
