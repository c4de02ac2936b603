import java.util.*;
import org.apache.kafka.common.serialization.*;
import org.apache.kafka.streams.*;
import org.apache.kafka.streams.kstream.*;
import org.apache.kafka.streams.state.*;

/** Prints the descriptions that `describe.txt` beside this file holds, from kafka-streams 4.3.0: one topology after another, each below a line `== name`. */
public class Describe {
    static final Serde<String> S = Serdes.String();
    static void show(String name, StreamsBuilder b) { System.out.println("== " + name); System.out.print(b.build().describe()); }
    static KStream<String, String> lines(StreamsBuilder b, String t) { return b.stream(t, Consumed.with(S, S)); }
    public static void main(String[] a) {
        StreamsBuilder b = new StreamsBuilder();
        lines(b, "text-lines-topic").flatMapValues(v -> Arrays.asList(v.split(" "))).groupBy((k, w) -> w).count().toStream().to("word-counts-output-topic");
        show("word_count_unnamed_store", b);

        b = new StreamsBuilder();
        lines(b, "text-lines-topic").flatMapValues(v -> Arrays.asList(v.split(" "))).groupBy((k, w) -> w)
            .count(Materialized.<String, Long, KeyValueStore<org.apache.kafka.common.utils.Bytes, byte[]>>as("word-counts")).toStream().to("word-counts-output-topic");
        show("word_count_named_store", b);

        b = new StreamsBuilder();
        lines(b, "in").filter((k, v) -> true).groupByKey().count(Materialized.as("c")).toStream().to("out");
        show("group_by_key_needs_no_repartition", b);

        b = new StreamsBuilder();
        lines(b, "in").map((k, v) -> KeyValue.pair(v, k)).peek((k, v) -> { }).mapValues(v -> v).groupByKey(Grouped.as("by-user")).count(Materialized.as("users")).toStream().foreach((k, v) -> { });
        show("grouped_name_names_the_repartition_topic", b);

        b = new StreamsBuilder();
        lines(b, "in").groupBy((k, v) -> v, Grouped.as("by-user")).count().toStream().to("out");
        show("grouped_name_in_group_by", b);

        b = new StreamsBuilder();
        KStream<String, String> left = lines(b, "left").filter((k, v) -> true);
        KStream<String, String> right = lines(b, "right").mapValues(v -> v);
        KStream<String, String> m = left.merge(right);
        m.to("out"); m.selectKey((k, v) -> v).to("by-value");
        show("merge_and_fan_out", b);

        b = new StreamsBuilder();
        KStream<String, String> s = lines(b, "in");
        s.groupBy((k, v) -> v).count(Materialized.as("one")).toStream().to("out-1");
        s.groupByKey().count(Materialized.as("two")).toStream().to("out-2");
        s.peek((k, v) -> { }).foreach((k, v) -> { });
        show("three_branches_of_one_stream", b);

        b = new StreamsBuilder();
        KGroupedStream<String, String> g = lines(b, "in").groupBy((k, v) -> v);
        g.count(Materialized.as("one")).toStream().to("out-1");
        g.count(Materialized.as("two")).toStream().to("out-2");
        show("two_counts_of_one_group", b);

        b = new StreamsBuilder();
        g = lines(b, "in").selectKey((k, v) -> v).groupByKey(Grouped.as("shared"));
        g.count(Materialized.as("one")).toStream().to("out-1");
        g.count(Materialized.as("two")).toStream().to("out-2");
        show("two_counts_share_a_named_repartition_topic", b);

        b = new StreamsBuilder();
        b.stream("second", Consumed.with(S, S).withName("zzz")).to("out-2");
        b.stream("first", Consumed.with(S, S).withName("aaa")).to("out-1");
        lines(b, "third").flatMapValues(v -> List.of(v)).flatMapValues((k, v) -> List.of(v)).to("out-3");
        show("named_sources", b);

        b = new StreamsBuilder();
        KTable<String, Long> t = lines(b, "in").groupByKey().count(Materialized.as("c"));
        t.toStream().to("out"); t.toStream().groupBy((k, v) -> "all").count().toStream().to("total");
        show("table_twice_and_a_count_of_counts", b);

        b = new StreamsBuilder();
        KStream<String, String> x = b.stream(List.of("orders", "payments", "alpha"), Consumed.with(S, S));
        x.merge(lines(b, "beta")).filter((k, v) -> true).to("out");
        show("several_topics_and_merge", b);
    }
}
