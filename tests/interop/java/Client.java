// A client of Keyfold on grpc-java: `java -cp … Client.java TARGET CREDENTIALS DESCRIPTORS`, as in
// ../go/main.go.

import com.google.protobuf.ByteString;
import com.google.protobuf.DescriptorProtos.FileDescriptorProto;
import com.google.protobuf.DescriptorProtos.FileDescriptorSet;
import com.google.protobuf.Descriptors.Descriptor;
import com.google.protobuf.Descriptors.FileDescriptor;
import com.google.protobuf.DynamicMessage;
import com.google.rpc.ErrorInfo;
import io.grpc.CallOptions;
import io.grpc.Context;
import io.grpc.Deadline;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.MethodDescriptor;
import io.grpc.MethodDescriptor.MethodType;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.TlsChannelCredentials;
import io.grpc.protobuf.ProtoUtils;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.ClientCalls;
import java.io.File;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;

public final class Client {
  private static final String KEYS = "keyfold.v1.KeyManagementService/";
  private static final ByteString KEY = ByteString.copyFromUtf8("0123456789abcdef");

  private final Map<String, FileDescriptor> files = new HashMap<>();
  private final Map<String, Descriptor> kinds = new HashMap<>();
  private final ManagedChannel channel;

  private interface Check {
    void run() throws Exception;
  }

  public static void main(String[] args) throws Exception {
    var client = new Client(args[0], args[1], args[2]);
    check("a key and back", client::aKeyAndBack);
    check("an error with details", client::anErrorWithDetails);
    check("a deadline", client::aDeadline);
    check("a cancel", client::aCancel);
    check("a large message", client::aLargeMessage);
    check("many calls at once", client::manyCallsAtOnce);
    System.exit(0);
  }

  private static void check(String name, Check check) {
    try {
      check.run();
    } catch (Throwable fault) {
      System.err.println(name + ": " + fault);
      System.exit(1);
    }
    System.out.println(name);
  }

  private Client(String target, String folder, String descriptors) throws Exception {
    var set = FileDescriptorSet.parseFrom(Files.readAllBytes(Path.of(descriptors)));
    for (FileDescriptorProto proto : set.getFileList()) {
      // The set has each file after those that it imports.
      var imported = proto.getDependencyList().stream().map(files::get).toArray(FileDescriptor[]::new);
      var file = FileDescriptor.buildFrom(proto, imported);
      files.put(proto.getName(), file);
      file.getMessageTypes().forEach(kind -> kinds.put(kind.getFullName(), kind));
    }
    var credentials = folder.equals("-")
        ? InsecureChannelCredentials.create()
        : TlsChannelCredentials.newBuilder()
            .trustManager(new File(folder, "ca.pem"))
            .keyManager(new File(folder, "client.pem"), new File(folder, "client.key"))
            .build();
    channel = Grpc.newChannelBuilder(target, credentials).build();
  }

  private void aKeyAndBack() {
    var wrapped = wrap();
    var asked = message("keyfold.v1.UnwrapRequest", "cluster", "prod", "wrapped_key", get(wrapped, "wrapped_key"));
    var opened = call(KEYS + "Unwrap", asked, "keyfold.v1.UnwrapResponse");
    must(KEY.equals(get(opened, "plaintext")), "another key came back");
  }

  private void anErrorWithDetails() throws Exception {
    try {
      call(KEYS + "Wrap", message("keyfold.v1.WrapRequest", "cluster", "nope", "region", "eu", "plaintext", KEY),
          "keyfold.v1.WrapResponse");
    } catch (StatusRuntimeException error) {
      must(error.getStatus().getCode() == Status.Code.NOT_FOUND, error.toString());
      for (var detail : StatusProto.fromThrowable(error).getDetailsList()) {
        if (detail.is(ErrorInfo.class)) {
          var info = detail.unpack(ErrorInfo.class);
          must(info.getReason().equals("CLUSTER_NOT_FOUND"), info.toString());
          must(info.getMetadataMap().get("cluster").equals("nope"), info.toString());
          return;
        }
      }
    }
    throw new AssertionError("no error with details");
  }

  private void aDeadline() {
    ends(watch(CallOptions.DEFAULT.withDeadlineAfter(500, TimeUnit.MILLISECONDS)), Status.Code.DEADLINE_EXCEEDED);
  }

  private void aCancel() throws Exception {
    var context = Context.current().withCancellation();
    context.call(() -> {
      var watch = watch(CallOptions.DEFAULT);
      context.cancel(null);
      ends(watch, Status.Code.CANCELLED);
      return null;
    });
    wrap();
  }

  private void aLargeMessage() {
    var asked = message("keyfold.v1.BatchWrapRequest", "cluster", "prod", "region", "eu").toBuilder();
    var items = asked.getDescriptorForType().findFieldByName("items");
    var item = message("keyfold.v1.BatchWrapItem", "plaintext", ByteString.copyFrom(new byte[3000]));
    for (int i = 0; i < 1000; i++) {
      asked.addRepeatedField(items, item);
    }
    var answer = call(KEYS + "BatchWrap", asked.build(), "keyfold.v1.BatchWrapResponse");
    int results = answer.getRepeatedFieldCount(answer.getDescriptorForType().findFieldByName("results"));
    must(results == 1000 && answer.getSerializedSize() > 3_000_000, results + " results");
  }

  private void manyCallsAtOnce() throws Exception {
    List<Future<DynamicMessage>> all = new ArrayList<>();
    for (int i = 0; i < 200; i++) {
      all.add(begin(KEYS + "Wrap", asksForWrap(), "keyfold.v1.WrapResponse"));
    }
    for (var one : all) {
      one.get();
    }
  }

  private DynamicMessage asksForWrap() {
    return message("keyfold.v1.WrapRequest", "cluster", "prod", "region", "eu", "plaintext", KEY);
  }

  private DynamicMessage wrap() {
    return call(KEYS + "Wrap", asksForWrap(), "keyfold.v1.WrapResponse");
  }

  private DynamicMessage call(String method, DynamicMessage asked, String kind) {
    var options = CallOptions.DEFAULT.withDeadline(Deadline.after(20, TimeUnit.SECONDS));
    return ClientCalls.blockingUnaryCall(channel, method(MethodType.UNARY, method, asked, kind), options, asked);
  }

  private Future<DynamicMessage> begin(String method, DynamicMessage asked, String kind) {
    var options = CallOptions.DEFAULT.withDeadline(Deadline.after(20, TimeUnit.SECONDS));
    var call = channel.newCall(method(MethodType.UNARY, method, asked, kind), options);
    return ClientCalls.futureUnaryCall(call, asked);
  }

  /** Begins a stream, and returns once its first message has come. */
  private Iterator<DynamicMessage> watch(CallOptions options) {
    var asked = message("grpc.health.v1.HealthCheckRequest");
    var method = method(MethodType.SERVER_STREAMING, "grpc.health.v1.Health/Watch", asked,
        "grpc.health.v1.HealthCheckResponse");
    var watch = ClientCalls.blockingServerStreamingCall(channel, method, options, asked);
    watch.next();
    return watch;
  }

  private static void ends(Iterator<DynamicMessage> watch, Status.Code code) {
    try {
      watch.next();
    } catch (StatusRuntimeException error) {
      must(error.getStatus().getCode() == code, error.toString());
      return;
    }
    throw new AssertionError("it went on");
  }

  private MethodDescriptor<DynamicMessage, DynamicMessage> method(
      MethodType type, String name, DynamicMessage asked, String kind) {
    return MethodDescriptor.<DynamicMessage, DynamicMessage>newBuilder()
        .setType(type)
        .setFullMethodName(name)
        .setRequestMarshaller(ProtoUtils.marshaller(asked.getDefaultInstanceForType()))
        .setResponseMarshaller(ProtoUtils.marshaller(DynamicMessage.getDefaultInstance(kinds.get(kind))))
        .build();
  }

  private DynamicMessage message(String kind, Object... fields) {
    var made = DynamicMessage.newBuilder(kinds.get(kind));
    for (int i = 0; i < fields.length; i += 2) {
      made.setField(kinds.get(kind).findFieldByName((String) fields[i]), fields[i + 1]);
    }
    return made.build();
  }

  private static Object get(DynamicMessage message, String field) {
    return message.getField(message.getDescriptorForType().findFieldByName(field));
  }

  private static void must(boolean truth, String what) {
    if (!truth) {
      throw new AssertionError(what);
    }
  }
}
