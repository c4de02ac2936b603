import java.nio.charset.StandardCharsets;
import java.util.*;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/** Writes the topics whose log segments lie beside this file. README.md says how it is run. */
public class WriteGolden {
    static final long TIME = 1_790_000_000_000L;
    static String servers;

    public static void main(String[] args) throws Exception {
        servers = args[0];
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", servers))) {
            Map<String, Map<String, String>> topics = new TreeMap<>();
            Map<String, String> keep = Map.of("retention.ms", "-1");
            Map<String, String> appendTime = Map.of("retention.ms", "-1", "message.timestamp.type", "LogAppendTime");
            for (String plain : List.of("plain", "idempotent", "lz4", "gzip", "snappy", "zstd", "transactions")) topics.put(plain, keep);
            for (String stamped : List.of("append-time", "append-time-lz4")) topics.put(stamped, appendTime);
            topics.put("compacted", Map.of("cleanup.policy", "compact", "segment.ms", "500",
                    "min.cleanable.dirty.ratio", "0.01", "delete.retention.ms", "100"));
            List<NewTopic> all = new ArrayList<>();
            topics.forEach((name, config) -> all.add(new NewTopic(name, 1, (short) 1).configs(config)));
            admin.createTopics(all).all().get();
        }
        everyShape("plain", Map.of("enable.idempotence", "false"));
        everyShape("idempotent", Map.of());
        everyShape("append-time", Map.of("enable.idempotence", "false"));
        for (String codec : List.of("lz4", "gzip", "snappy", "zstd")) text(codec, Map.of("compression.type", codec));
        text("append-time-lz4", Map.of("compression.type", "lz4", "enable.idempotence", "false"));
        transactions();
        compacted();
    }

    static KafkaProducer<byte[], byte[]> producer(Map<String, String> more) {
        Map<String, Object> config = new HashMap<>(Map.of("bootstrap.servers", servers, "linger.ms", "500",
                "batch.size", "1000000"));
        config.putAll(more);
        return new KafkaProducer<>(config, new ByteArraySerializer(), new ByteArraySerializer());
    }

    /** Two batches with null and empty keys and values, headers twice and without a value, time that goes back. */
    static void everyShape(String topic, Map<String, String> config) {
        try (var producer = producer(config)) {
            send(producer, topic, 0, "key", "value");
            send(producer, topic, 5, null, "no key");
            send(producer, topic, -5, "", "");
            send(producer, topic, 70, "tombstone", null);
            var record = record(topic, 100_000, "headers", "x".repeat(200));
            record.headers().add("trace", bytes("abc")).add("trace", bytes("def"));
            record.headers().add(new RecordHeader("none", (byte[]) null)).add("", new byte[0]);
            record.headers().add("\u00fcml\u00e4ut", bytes("\u00df"));
            producer.send(record);
            producer.flush();
            send(producer, topic, 200_000, "k".repeat(64), "v".repeat(8192));
            send(producer, topic, 200_001, null, null);
        }
    }

    /** One batch of 200 KB that spans several blocks. */
    static void text(String topic, Map<String, String> config) {
        try (var producer = producer(config)) {
            for (int i = 0; i < 2_000; i++)
                send(producer, topic, i, "key-" + i % 10, "line " + i + " " + "of a text that repeats itself ".repeat(3));
        }
    }

    static void transactions() {
        try (var producer = producer(Map.of("transactional.id", "golden"))) {
            producer.initTransactions();
            for (boolean commit : new boolean[] {true, false, true}) {
                producer.beginTransaction();
                send(producer, "transactions", 1, commit ? "kept" : "dropped", "v");
                producer.flush();
                if (commit) producer.commitTransaction(); else producer.abortTransaction();
            }
        }
    }

    /** Batches of which compaction leaves holes, one that it empties, and a last one that lets it work. */
    static void compacted() throws Exception {
        try (var producer = producer(Map.of())) {
            for (String key : List.of("a", "b", "c", "a", "d", "b")) send(producer, "compacted", 0, key, "first");
        }
        try (var producer = producer(Map.of())) {
            for (String key : List.of("a", "x", "a", "d")) send(producer, "compacted", 10_000, key, "second");
        }
        try (var producer = producer(Map.of())) {
            for (String key : List.of("e", "x", "d", "a", "f")) send(producer, "compacted", 20_000, key, "third");
        }
        // A segment is rolled by the records' time, and the last one is never compacted.
        try (var producer = producer(Map.of("enable.idempotence", "false"))) {
            send(producer, "compacted", 30_000, "z", "last");
        }
        Thread.sleep(3_000);
    }

    static void send(KafkaProducer<byte[], byte[]> producer, String topic, long time, String key, String value) {
        producer.send(record(topic, time, key, value));
    }

    static ProducerRecord<byte[], byte[]> record(String topic, long time, String key, String value) {
        return new ProducerRecord<>(topic, 0, TIME + time, bytes(key), bytes(value));
    }

    static byte[] bytes(String text) {
        return text == null ? null : text.getBytes(StandardCharsets.UTF_8);
    }
}
