"""A customer's message about an order, to one line of JSON with five fixed keys.

    Hello, I sent back order KX-48213 on 3 March 2024. When do I get my $49.90 back? Anna Weber

    {"intent": "refund", "order": "KX-48213", "amount": 49.90, "currency": "USD", "date": "2024-03-03"}

Names, things, amounts, dates and words vary, and so does the way that amounts and dates are written. Every
date names its month or is in the order of its writing alone: 3.3.2024 is day first, 2024-03-03 year first.
"""

import json
from datetime import date, timedelta

from secura.tasks.drawing import Draw
from secura.tasks.everyday.calendar import MONTHS
from secura.tasks.question import Question

KEYS = ("intent", "order", "amount", "currency", "date")
"""The keys of every answer, in this order."""

_ASKED = "Turn this customer's message into one line of JSON with the keys intent, order, amount, currency and date."

_MESSAGES = {
    "refund": (
        "I sent back the {thing} of order {order} on {date}. When do I get my {amount} back?",
        "On {date} I returned the {thing}. Please pay back the {amount} for order {order}.",
        "My {thing} was broken when it came on {date}. I want the {amount} for order {order} back.",
        "Please refund {amount} for order {order}. I returned the {thing} on {date}.",
    ),
    "cancel": (
        "Please cancel order {order} from {date}. I do not need the {thing} for {amount} any more.",
        "On {date} I ordered a {thing} for {amount} by mistake. Can you cancel order {order}?",
        "I want to cancel my order {order} of {date}, one {thing} for {amount}.",
        "I found the {thing} cheaper elsewhere, so cancel order {order} over {amount} from {date}, please.",
    ),
    "delivery": (
        "I paid {amount} for a {thing} on {date}, but nothing has come. Where is order {order}?",
        "Order {order} from {date} is still not here. I paid {amount} for the {thing}.",
        "When will my {thing} arrive? Order {order}, {amount}, placed on {date}.",
        "I have been waiting for the {thing} since {date}. The order is {order}, and I paid {amount}.",
    ),
    "exchange": (
        "The {thing} that I bought on {date} for {amount} is too small. Can I exchange it? My order is {order}.",
        "Please exchange the {thing} of order {order} for another color. I bought it on {date} for {amount}.",
        "I got the wrong {thing} on {date}. Please swap it for the right one, order {order}, {amount}.",
        "Can I swap the {thing} from order {order} for a larger one? It was {amount} on {date}.",
    ),
    "invoice": (
        "I need an invoice for order {order}. I bought a {thing} for {amount} on {date}.",
        "Could you send me the invoice over {amount} for the {thing}? Order {order}, {date}.",
        "The invoice for my {thing} is missing. I paid {amount} on {date}, and the order is {order}.",
        "Please send a receipt for {amount}. It was order {order} of {date}, a {thing}.",
    ),
}

_GREETINGS = ("Hello,", "Hi,", "Good morning,", "Dear team,", "Hi there,", "")
_THANKS = ("Thank you", "Thanks", "Best regards", "Regards", "")
_FIRST_NAMES = ("Anna", "Ben", "Carla", "David", "Emma", "Felix", "Grace", "Hugo", "Ines", "Jack", "Kate", "Leo")
_LAST_NAMES = ("Weber", "Smith", "Rossi", "Brown", "Meyer", "Clark", "Novak", "Jones", "Silva", "Green")
_THINGS = (
    "kettle",
    "jacket",
    "lamp",
    "backpack",
    "keyboard",
    "blender",
    "pair of shoes",
    "tent",
    "desk chair",
    "headset",
    "raincoat",
    "coffee machine",
    "phone case",
    "blanket",
    "sweater",
    "toaster",
)
_CURRENCIES = {
    "USD": ("${}", "{} dollars", "USD {}"),
    "EUR": ("€{}", "{} euros", "EUR {}", "{} €"),
    "GBP": ("£{}", "{} pounds", "GBP {}"),
    "CHF": ("CHF {}", "{} Swiss francs", "{} francs"),
}
_FIRST_DAY = date(2021, 1, 1)
_DAYS = 5 * 365


def order_question(draw: Draw) -> Question:
    """One message with the JSON that is to be read of it."""
    intent = draw.choice(tuple(_MESSAGES))
    order = f"{draw.choice('ABCDEHKMNPRT')}{draw.choice('KLMRSTXZ')}-{draw.randint(10000, 99999)}"
    amount = f"{draw.randint(3, 999)}.{draw.choice(('00', '50', '90', '95', '99', f'{draw.randint(1, 98):02d}'))}"
    currency = draw.choice(tuple(_CURRENCIES))
    day = _FIRST_DAY + timedelta(days=draw.randrange(_DAYS))
    said = draw.choice(_MESSAGES[intent]).format(
        thing=draw.choice(_THINGS),
        order=order,
        amount=draw.choice(_CURRENCIES[currency]).format(amount),
        date=_written(day, draw),
    )
    name = draw.choice((f"{draw.choice(_FIRST_NAMES)} {draw.choice(_LAST_NAMES)}", draw.choice(_FIRST_NAMES)))
    message = " ".join(part for part in (draw.choice(_GREETINGS), said, draw.choice(_THANKS), name) if part)
    answer = (
        f'{{"intent": {json.dumps(intent)}, "order": {json.dumps(order)}, "amount": {amount}, '
        f'"currency": {json.dumps(currency)}, "date": {json.dumps(day.isoformat())}}}'
    )
    return Question(prompt=f"{_ASKED}\n\n{message}", answer=answer, match="json")


def _written(day: date, draw: Draw) -> str:
    month = MONTHS[day.month - 1]
    return draw.choice(
        (
            f"{day.day} {month} {day.year}",
            f"{month} {day.day}, {day.year}",
            f"{month[:3]} {day.day}, {day.year}",
            f"{day.day}.{day.month}.{day.year}",
            day.isoformat(),
        )
    )
