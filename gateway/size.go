package gateway

import "lsmtpd/routes"

// SizeLimit is what sessions of l are told that a mail may have, in octets: size_limit, or less where amqp.max_message_size leaves no
// more once the mail is encoded. 0 is no limit.
func SizeLimit(l *routes.Listener, maxMessageSize int64) int64 { return sizeLimit(l, maxMessageSize) }
