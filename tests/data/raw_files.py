"""Small files in the forms that the raw sources come in."""

import gzip
import json
from datetime import UTC, datetime


def python2(value):
    """What Python 2 prints of a JSON value: u'…' with escapes for all that is not ASCII."""
    if isinstance(value, str):
        return "u" + ascii(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{python2(key)}: {python2(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(python2, value)) + "]"
    return repr(value)


FORMS = {"json": json.dumps, "python": repr, "python2": python2}


def write(path, lines, form="json"):
    """One line each: a record in the given form, or text and bytes as they are."""
    content = b""
    for line in lines:
        if isinstance(line, dict):
            line = FORMS[form](line)
        content += (line.encode() if isinstance(line, str) else line) + b"\n"
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
    return path


def amazon_review(user, item, stars=5.0, time=1252800000, text="Fine."):
    return {
        "reviewerID": user, "asin": item, "reviewerName": "J. McDonald", "helpful": [2, 3], "reviewText": text,
        "overall": stars, "summary": "In short", "unixReviewTime": time, "reviewTime": "09 13, 2009",
    }  # fmt: skip


def amazon_item(item, **fields):
    return {
        "asin": item, "title": f"Book {item}", "description": f"It's about \"{item}\" &amp; more.",
        "price": 12.99, "imUrl": "http://images/x.jpg", "related": {"also_bought": ["0000000001"]},
        "salesRank": {"Books": 6448843}, "brand": "Penguin",
        "categories": [["Books", "Literature & Fiction"], ["Books", "Crafts, Hobbies &amp; Home"]], **fields,
    }  # fmt: skip


def steam_review(user, game, time=1513468800, text="Great."):
    return {
        "username": user, "hours": 0.1, "products": 41, "product_id": game, "page_order": 0,
        "date": datetime.fromtimestamp(time, UTC).date().isoformat(), "text": text, "early_access": True,
        "page": 1,
    }  # fmt: skip


def steam_game(game, **fields):
    return {
        "publisher": "Kotoshiro", "genres": ["Action", "Indie"], "app_name": f"Game {game}",
        "title": f"Game {game}", "url": "http://store/app", "release_date": "2018-01-04",
        "tags": ["Strategy", "Action"], "discount_price": 4.49, "reviews_url": "http://store/reviews",
        "specs": ["Single-player"], "price": 4.99, "early_access": False, "id": game, "developer": "Kotoshiro",
        "sentiment": "Mostly Positive", **fields,
    }  # fmt: skip


def yelp_review(user, business, stars=4.0, time=1531001351, text="Good."):
    return {
        "review_id": "KU_O5udG6zpxOg-VcAEodg", "user_id": user, "business_id": business, "stars": stars,
        "useful": 0, "funny": 0, "cool": 0, "text": text,
        "date": datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M:%S"),
    }  # fmt: skip


def yelp_business(business, **fields):
    return {
        "business_id": business, "name": f"Café {business}", "address": "1616 Chapala St",
        "city": "Santa Barbara", "state": "CA", "postal_code": "93101", "latitude": 34.4, "longitude": -119.7,
        "stars": 4.5, "review_count": 7, "is_open": 0,
        "attributes": {
            "WiFi": "u'free'", "BikeParking": "True", "Alcohol": "'none'", "HasTV": "False",
            "RestaurantsPriceRange2": "2", "BusinessParking": "{'garage': False, 'street': True, 'lot': True}",
        },
        "categories": "Coffee & Tea, Bakeries", "hours": {"Monday": "7:0-20:0"}, **fields,
    }  # fmt: skip
