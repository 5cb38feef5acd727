// Establish on the strategy's side: by descriptors over a Unix socket, by endpoints over TCP.
#include "control/handshake.hpp"
#include "rdmaorder/platform.hpp"

namespace rdmaorder::control {
namespace {

/// Status line and ring on pages of their own.
constexpr std::uint64_t kReportRingOffsetBytes = kPageBytes;

/// The link as far as NegotiationResponse tells, with the own window made.
Established begin(const ConnectRequest& request, const Granted& granted) {
  Established link;
  link.session_index = granted.session_index;
  link.cancel_reserve_count = granted.cancel_reserve_count;
  link.heartbeat_interval_ns = granted.heartbeat_interval_ns;
  link.gateway_version = granted.gateway_version;
  link.gateway_pid = granted.gateway_pid;
  link.report_geometry = {kReportRingOffsetBytes, request.slot_bytes, granted.report_slot_count};

  memory::WindowConfig config;
  config.bytes = link.report_geometry.window_bytes();
  config.huge_pages = request.huge_pages;
  config.name = "rdmaorder-reports:" + request.session;
  link.report_window = memory::Window::create(config);
  return link;
}

/// First report the strategy wants.
std::uint64_t wanted_report(const ConnectRequest& request, const Granted& granted) {
  if (request.next_report_sequence != 0) return request.next_report_sequence;
  return request.undelivered_reports ? granted.undelivered_report_sequence
                                     : granted.next_report_sequence;
}

/// Establish without the window, which each transport tells in its own way.
MessageWriter establish_message(const ConnectRequest& request, const Granted& granted) {
  MessageWriter message("Establish");
  message.text("session", request.session)
      .number("next_order_sequence", request.next_order_sequence)
      .number("next_report_sequence", wanted_report(request, granted));
  return message;
}

/// What EstablishmentAck says on every transport.
void read_ack(const Message& message, const ConnectRequest& request, const Granted& granted,
              Established& link) {
  expect_type(message, "EstablishmentAck", "EstablishmentReject");
  link.epoch = message.number("epoch", 1, UINT64_MAX);
  link.next_order_sequence = message.number("next_order_sequence", 1, kSequenceMax);
  link.next_report_sequence = message.number("next_report_sequence", 1, kSequenceMax);
  const std::uint64_t wanted = wanted_report(request, granted);
  link.lost_report_count =
      link.next_report_sequence > wanted ? link.next_report_sequence - wanted : 0;
  link.not_applied_count = message.number("not_applied_count", 0, kSequenceMax);
  link.order_geometry = message.window().geometry;
  if (link.order_geometry.slot_bytes != request.slot_bytes ||
      link.order_geometry.slot_count != granted.order_slot_count) {
    throw Error(ErrorKind::kHandshake,
                "the order window holds " + std::to_string(link.order_geometry.slot_count) +
                    " slots of " + std::to_string(link.order_geometry.slot_bytes) +
                    " bytes, granted were " + std::to_string(granted.order_slot_count) + " of " +
                    std::to_string(request.slot_bytes));
  }
}

void expect_descriptors(const Frame& frame, std::size_t count) {
  if (frame.descriptors.size() == count) return;
  throw Error(ErrorKind::kHandshake,
              "EstablishmentAck came with " + std::to_string(frame.descriptors.size()) +
                  " descriptors instead of " + (count == 1 ? "one" : "none"));
}

}  // namespace

Established establish_shm(Channel& channel, const ConnectRequest& request, const Granted& granted,
                          const Deadline& deadline) {
  Established link = begin(request, granted);
  const std::string frame = establish_message(request, granted)
                                .window(link.report_geometry, link.report_window.bytes())
                                .frame();
  in_step(channel, request, "Establish", [&] {
    channel.send(frame, link.report_window.fd(), deadline);
    Frame answer = channel.receive(deadline);
    const Message message = Message::parse(answer.body);
    read_ack(message, request, granted, link);
    expect_descriptors(answer, 1);
    link.order_window =
        memory::Window::map_peer(std::move(answer.descriptors.front()), message.window().bytes);
  });
  return link;
}

Established establish_rdma(Channel& channel, const ConnectRequest& request, const Granted& granted,
                           LinkMaker& maker, LinkTerms terms, const Deadline& deadline) {
  Established link = begin(request, granted);
  terms.session_index = granted.session_index;
  terms.report_window = &link.report_window;
  terms.report_geometry = link.report_geometry;
  try {
    in_step(channel, request, "Establish", [&] {
      const LinkOffer offer = maker.offer(terms);
      channel.send(establish_message(request, granted)
                       .window({offer.window_address, offer.window_key, link.report_window.bytes(),
                                link.report_geometry})
                       .endpoint(offer.endpoint)
                       .frame(),
                   -1, deadline);
      const Frame answer = channel.receive(deadline);
      const Message message = Message::parse(answer.body);
      read_ack(message, request, granted, link);
      expect_descriptors(answer, 0);
      const bool data_in_order = maker.accept(
          {message.endpoint(), message.remote_window(), message.flag("data_in_order")});
      channel.send(MessageWriter("Established")
                       .number("epoch", link.epoch)
                       .number("data_in_order", data_in_order ? 1 : 0)
                       .frame(),
                   -1, deadline);
    });
  } catch (...) {
    maker.abandon();  // before the window goes
    throw;
  }
  return link;
}

}  // namespace rdmaorder::control
