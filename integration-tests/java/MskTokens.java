import java.net.URI;
import java.net.URLDecoder;
import java.net.URLEncoder;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.time.Duration;
import java.time.Instant;
import java.time.ZoneOffset;
import java.time.format.DateTimeFormatter;
import java.util.Base64;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.stream.Collectors;
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;
import javax.security.auth.callback.Callback;
import javax.security.auth.callback.UnsupportedCallbackException;
import javax.security.auth.login.AppConfigurationEntry;
import org.apache.kafka.common.security.auth.AuthenticateCallbackHandler;
import org.apache.kafka.common.security.oauthbearer.OAuthBearerToken;
import org.apache.kafka.common.security.oauthbearer.OAuthBearerValidatorCallback;

/**
 * Admits to a broker who has a token as Amazon MSK takes it: a presigned request to connect, signed within its time, by
 * the keys that the system's properties msk.id, msk.secret, msk.session and msk.region name. It signs the request anew,
 * by nothing but Java's own library.
 */
public class MskTokens implements AuthenticateCallbackHandler {
    private static final DateTimeFormatter STAMP =
            DateTimeFormatter.ofPattern("yyyyMMdd'T'HHmmss'Z'").withZone(ZoneOffset.UTC);

    @Override
    public void configure(Map<String, ?> configs, String mechanism, List<AppConfigurationEntry> entries) {}

    @Override
    public void close() {}

    @Override
    public void handle(Callback[] callbacks) throws UnsupportedCallbackException {
        for (Callback callback : callbacks) {
            if (!(callback instanceof OAuthBearerValidatorCallback asked)) {
                throw new UnsupportedCallbackException(callback);
            }
            try {
                asked.token(admitted(asked.tokenValue()));
            } catch (Exception refused) {
                System.err.println("REFUSED " + refused);
                asked.error("access_denied", "", "");
            }
        }
    }

    private static OAuthBearerToken admitted(String token) throws Exception {
        URI url = URI.create(new String(Base64.getUrlDecoder().decode(token), StandardCharsets.UTF_8));
        TreeMap<String, String> query = new TreeMap<>();
        for (String pair : url.getRawQuery().split("&")) {
            int at = pair.indexOf('=');
            query.put(decoded(pair.substring(0, at)), decoded(pair.substring(at + 1)));
        }
        String region = property("region");
        Instant signed = Instant.from(STAMP.parse(query.get("X-Amz-Date")));
        Instant until = signed.plusSeconds(Long.parseLong(query.get("X-Amz-Expires")));
        String scope = query.get("X-Amz-Date").substring(0, 8) + "/" + region + "/kafka-cluster/aws4_request";
        same("host", "https://kafka." + region + ".amazonaws.com/", url.toString().split("\\?")[0]);
        same("action", "kafka-cluster:Connect", query.get("Action"));
        same("algorithm", "AWS4-HMAC-SHA256", query.get("X-Amz-Algorithm"));
        same("credential", property("id") + "/" + scope, query.get("X-Amz-Credential"));
        same("validity", "900", query.get("X-Amz-Expires"));
        same("headers", "host", query.get("X-Amz-SignedHeaders"));
        same("session", property("session"), query.getOrDefault("X-Amz-Security-Token", ""));
        if (query.remove("User-Agent") == null) {
            throw new IllegalArgumentException("no user agent");
        }
        if (signed.isAfter(Instant.now().plus(Duration.ofMinutes(1))) || until.isBefore(Instant.now())) {
            throw new IllegalArgumentException("not within its time: " + signed);
        }
        String signature = query.remove("X-Amz-Signature");
        same("signature", signature(query, url.getHost(), region, scope), signature);
        return new Admitted(token, property("id"), signed.toEpochMilli(), until.toEpochMilli());
    }

    private static String signature(TreeMap<String, String> query, String host, String region, String scope)
            throws Exception {
        String pairs = query.entrySet().stream()
                .map(pair -> encoded(pair.getKey()) + "=" + encoded(pair.getValue()))
                .collect(Collectors.joining("&"));
        String request = "GET\n/\n" + pairs + "\nhost:" + host + "\n\nhost\n" + hash("");
        String text = "AWS4-HMAC-SHA256\n" + query.get("X-Amz-Date") + "\n" + scope + "\n" + hash(request);
        byte[] key = ("AWS4" + property("secret")).getBytes(StandardCharsets.UTF_8);
        for (String part : List.of(scope.substring(0, 8), region, "kafka-cluster", "aws4_request", text)) {
            Mac mac = Mac.getInstance("HmacSHA256");
            mac.init(new SecretKeySpec(key, "HmacSHA256"));
            key = mac.doFinal(part.getBytes(StandardCharsets.UTF_8));
        }
        return HexFormat.of().formatHex(key);
    }

    private static String hash(String text) throws Exception {
        byte[] bytes = text.getBytes(StandardCharsets.UTF_8);
        return HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(bytes));
    }

    private static String decoded(String text) {
        return URLDecoder.decode(text, StandardCharsets.UTF_8);
    }

    private static String encoded(String text) {
        String form = URLEncoder.encode(text, StandardCharsets.UTF_8);
        return form.replace("+", "%20").replace("*", "%2A").replace("%7E", "~");
    }

    private static String property(String name) {
        return System.getProperty("msk." + name, "");
    }

    private static void same(String what, String expected, String found) {
        if (!expected.equals(found)) {
            throw new IllegalArgumentException("another " + what + ": " + found);
        }
    }

    private record Admitted(String value, String principalName, long from, long until) implements OAuthBearerToken {
        @Override
        public Set<String> scope() {
            return Set.of();
        }

        @Override
        public long lifetimeMs() {
            return until;
        }

        @Override
        public Long startTimeMs() {
            return from;
        }
    }
}
