module lsmtpd/gateway/bench

go 1.26.0

require (
	github.com/emersion/go-smtp v0.24.0
	lsmtpd v0.0.0
)

require (
	github.com/emersion/go-sasl v0.0.0-20241020182733-b788ff22d5a6 // indirect
	github.com/google/uuid v1.6.0 // indirect
	github.com/rabbitmq/amqp091-go v1.16.0 // indirect
)

replace lsmtpd => ../..
